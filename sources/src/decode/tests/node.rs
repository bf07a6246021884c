use super::{node, problems, yaml};

#[test]
fn all_fields_are_read() {
    let na = node(
        "
apiVersion: v1
kind: Node
metadata: {name: na, labels: {topology.kubernetes.io/zone: z1}, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec:
  podCIDR: 10.50.1.0/24
  podCIDRs: [10.50.1.0/24, 'fd50:1::1/64', 10.50.1.0/24]
  taints: [{key: b, effect: NoSchedule}, {key: a}, {key: b, effect: NoExecute}]
status:
  addresses:
  - {type: ExternalIP, address: 203.0.113.5}
  - {type: Hostname, address: na}
  - {type: InternalIP, address: 192.0.2.110}
  - {type: InternalIP, address: 192.0.2.010}
  - {type: InternalIP, address: 192.0.2.110}
  - {type: InternalIP, address: '2001:db8::10'}
",
    );
    assert_eq!(na.name.as_str(), "na");
    let addresses: Vec<_> = na.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.110", "192.0.2.10", "2001:db8::10", "203.0.113.5"]);
    let ranges: Vec<_> = na.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.50.1.0/24", "fd50:1::/64"]);
    assert_eq!(na.zone.as_ref().map(|zone| zone.as_str()), Some("z1"));
    assert_eq!(na.taints, ["a".into(), "b".into()]);
    assert!(na.deleting);
}

#[test]
fn omitted_fields_are_empty() {
    let na = node(
        "apiVersion: v1\nkind: Node\nmetadata: {name: na, labels: {topology.kubernetes.io/zone: ''}}\nspec: {podCIDR: 10.0.0.0/24}\n",
    );
    assert_eq!((na.addresses.len(), na.zone.clone(), na.deleting), (0, None, false));
    assert_eq!(na.pod_cidrs, ["10.0.0.0/24".parse().unwrap()]);
}

#[test]
fn problems_name_their_field() {
    let decoded = yaml(
        "apiVersion: v1\nkind: Node\nmetadata: {name: na}\nspec:\n  podCIDRs: [x]\nstatus:\n  addresses: [{type: InternalIP, address: z}]\n",
    );
    assert_eq!(
        problems(&decoded),
        [
            "web.yaml:7:43: Node na: status.addresses[0].address: \"z\" is not an IP address",
            "web.yaml:5:14: Node na: spec.podCIDRs[0]: \"x\" is not a range",
        ]
    );
    assert_eq!((decoded.objects.len(), decoded.broken.len()), (0, 1));
    let decoded = yaml("apiVersion: v1\nkind: Node\nmetadata: {name: 'n\"a'}\n");
    assert_eq!((decoded.objects.len(), decoded.problems.len()), (0, 1));
}
