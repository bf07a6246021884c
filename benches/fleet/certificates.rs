//! Certificates of a relay and of its nodes.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rulec_sources::RelayAccess;

use super::cluster::node_name;
use super::relay::LISTEN;

/// Writes the authority, the relay's certificate, and one for each node. All share a key, which is
/// all the same to those who verify them.
pub(super) fn write(directory: &Path, nodes: usize) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = |organization: &str, name: String| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        params.signed_by(&key, &authority).unwrap().pem()
    };
    let put = |file: &str, text: String| fs::write(directory.join(file), text).unwrap();
    put("authority", authority.pem());
    put("key", key.serialize_pem());
    put("relay", certificate("relays", "relay".to_owned()));
    for name in (0..nodes).map(node_name) {
        put(&name, certificate("system:nodes", format!("system:node:{name}")));
    }
}

/// Returns how a node reaches the relay; without certificates, by the name of the node alone.
pub(super) fn access(directory: &Path, node: &str, is_secure: bool) -> RelayAccess {
    let file = |name: &str| is_secure.then(|| directory.join(name));
    let scheme = if is_secure { "https" } else { "http" };
    RelayAccess {
        url: format!("{scheme}://{LISTEN}").parse().unwrap(),
        certificate_authority: file("authority"),
        client_certificate: file(node),
        client_key: file("key"),
        token: None,
    }
}
