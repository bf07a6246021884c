//! The paths of the programs.

use std::path::PathBuf;

/// The programs that `TEST_ASSET_KUBE_APISERVER` and `TEST_ASSET_ETCD` name, the variables of
/// controller-runtime's envtest.
#[derive(Debug, Clone)]
pub struct Assets {
    pub(super) apiserver: PathBuf,
    pub(super) etcd: PathBuf,
}

impl Assets {
    /// Returns the programs; `None`, with a message, if neither variable is set.
    ///
    /// # Panics
    ///
    /// When only one of the two is set, or a file does not exist: a test that was asked for must
    /// not pass without running.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a test that does not run has to say so")]
    pub fn named() -> Option<Self> {
        let of = |variable| std::env::var_os(variable).map(|path| (variable, PathBuf::from(path)));
        match (of("TEST_ASSET_KUBE_APISERVER"), of("TEST_ASSET_ETCD")) {
            (Some(apiserver), Some(etcd)) => {
                for (variable, path) in [&apiserver, &etcd] {
                    assert!(path.is_file(), "{variable}: there is no file {}", path.display());
                }
                Some(Self { apiserver: apiserver.1, etcd: etcd.1 })
            }
            (None, None) => {
                eprintln!(
                    "not run: TEST_ASSET_KUBE_APISERVER and TEST_ASSET_ETCD name no real server"
                );
                None
            }
            (Some((set, _)), None) | (None, Some((set, _))) => {
                panic!(
                    "{set} alone names no server: TEST_ASSET_KUBE_APISERVER and TEST_ASSET_ETCD \
                     belong together"
                )
            }
        }
    }
}
