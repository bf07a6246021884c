//! Tests of the sources of Services.

use super::{HEAD, errors, load_in, printed};
use crate::config::{ApiAccess, Config};

fn sources(options: &[&str], file: Option<&str>, in_cluster: bool) -> (bool, Option<ApiAccess>) {
    let file = file.map(|body| format!("{HEAD}mode: nftables\n{body}"));
    let loaded = load_in(options, file.as_deref(), in_cluster).unwrap();
    assert_eq!(printed(&loaded.warnings), [""; 0]);
    let Config { manifests, api, .. } = loaded.config;
    (manifests.is_some(), api)
}

fn api(kubeconfig: Option<&str>, master: Option<&str>) -> Option<ApiAccess> {
    Some(ApiAccess { kubeconfig: kubeconfig.map(Into::into), master: master.map(Into::into) })
}

#[test]
fn the_api_server_is_a_source_if_named_or_if_nothing_else_is() {
    const KUBECONFIG: Option<&str> = Some("clientConnection: {kubeconfig: /k}\n");
    let in_pod = api(None, None);
    let table = [
        (&["--manifests=m"][..], None, false, (true, None)),
        (&["--manifests=m"], None, true, (true, None)),
        (&["--manifests=m", "--in-cluster"], None, true, (true, in_pod.clone())),
        (&["--manifests=m", "--kubeconfig=/k"], None, false, (true, api(Some("/k"), None))),
        (
            &["--manifests=m", "--master=https://a"],
            None,
            false,
            (true, api(None, Some("https://a"))),
        ),
        (&["--manifests=m"], KUBECONFIG, false, (true, api(Some("/k"), None))),
        (&["--manifests=m"], Some(""), false, (true, None)),
        (&["--manifests=m"], Some(""), true, (true, in_pod.clone())),
        (&[], None, true, (false, in_pod.clone())),
        (&[], Some(""), true, (false, in_pod.clone())),
        (&[], KUBECONFIG, false, (false, api(Some("/k"), None))),
        (&["--master=https://a"], KUBECONFIG, false, (false, api(Some("/k"), Some("https://a")))),
        (&["--kubeconfig=/k", "--master="], None, true, (false, api(Some("/k"), None))),
        (&["--write-config-to=x"], None, false, (false, None)),
        (&["--init-only"], None, false, (false, None)),
        (&["--cleanup"], Some(""), false, (false, in_pod)),
    ];
    for (options, file, in_cluster, expected) in table {
        assert_eq!(
            sources(options, file, in_cluster),
            expected,
            "{options:?} {file:?} {in_cluster}"
        );
    }
}

#[test]
fn a_missing_source_is_an_error() {
    assert_eq!(
        errors(load_in(&[], None, false)),
        [
            "--manifests: is missing, and so are --kubeconfig, --master and --config: there is no source of Services"
        ]
    );
    assert_eq!(
        errors(load_in(&[], Some(HEAD), false)),
        ["proxy.conf: clientConnection.kubeconfig: is missing, and this is not a Pod \
          (KUBERNETES_SERVICE_HOST is not set): the address of the API server is not known"]
    );
    assert_eq!(
        errors(load_in(&["--manifests=m", "--in-cluster"], None, false)),
        ["--kubeconfig: is missing, and this is not a Pod (KUBERNETES_SERVICE_HOST is not set): \
             the address of the API server is not known"]
    );
}
