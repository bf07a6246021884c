//! The name of a node in its certificate.

use rulec_compiler::name::NodeName;

/// The user name of a node, as its kubelet has it, before the name of the node.
const USER: &[u8] = b"system:node:";

/// The group of all nodes.
const GROUP: &[u8] = b"system:nodes";

/// The types of the attributes that are looked for: commonName and organizationName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// Returns the node that a certificate names: its subject has the common name `system:node:NAME` and
/// the organization `system:nodes`, as that of a kubelet. The certificate must have been verified.
pub fn node_of_certificate(der: &[u8]) -> Option<NodeName> {
    let mut names = Vec::new();
    let mut is_member = false;
    for (kind, value) in attributes(subject(der)?)? {
        match kind {
            COMMON_NAME => names.push(value),
            ORGANIZATION => is_member |= value == GROUP,
            _ => {}
        }
    }
    // A subject with two names would mean whatever somebody reads first.
    let [name] = names[..] else { return None };
    let name = std::str::from_utf8(name.strip_prefix(USER)?).ok()?;
    let is_name = !name.is_empty() && name.bytes().all(|it| it.is_ascii_graphic() && it != b'/');
    (is_member && is_name).then(|| NodeName::from(name))
}

/// Returns the content of the subject.
fn subject(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut signed, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, rest)) = expect(signed, VERSION) {
        signed = rest;
    }
    // The serial number, the algorithm, the issuer, and how long it is valid.
    for _ in 0..4 {
        signed = element(signed)?.2;
    }
    Some(expect(signed, SEQUENCE)?.0)
}

/// Returns types and values of the attributes of a name.
fn attributes(mut name: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !name.is_empty() {
        let (mut set, rest) = expect(name, SET)?;
        name = rest;
        while !set.is_empty() {
            let (attribute, rest) = expect(set, SEQUENCE)?;
            set = rest;
            let (kind, value) = expect(attribute, OBJECT_IDENTIFIER)?;
            found.push((kind, element(value)?.1));
        }
    }
    Some(found)
}

/// Returns the content of an element with this tag, and what follows.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Returns tag and content of the first element, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        // Other lengths are not DER, or longer than any certificate.
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(attributes: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_node_is_named_as_by_its_kubelet() {
        let of = |organization, name| {
            let der = certificate(&[
                (DnType::OrganizationName, organization),
                (DnType::CommonName, name),
            ]);
            node_of_certificate(&der).map(|node| node.to_string())
        };
        assert_eq!(of("system:nodes", "system:node:worker-1").as_deref(), Some("worker-1"));
        assert_eq!(of("system:masters", "system:node:worker-1"), None);
        assert_eq!(of("system:nodes", "worker-1"), None);
        assert_eq!(of("system:nodes", "system:node:"), None);
        assert_eq!(of("system:nodes", "system:node:a b"), None);
        assert_eq!(node_of_certificate(&certificate(&[])), None);
    }

    #[test]
    fn bytes_that_end_anywhere_name_nobody() {
        let der = certificate(&[
            (DnType::OrganizationName, "system:nodes"),
            (DnType::CommonName, "system:node:a"),
        ]);
        assert!(node_of_certificate(&der).is_some());
        for end in 0..der.len() {
            assert_eq!(node_of_certificate(&der[..end]), None);
        }
        // No byte that is changed makes it panic.
        for index in 0..der.len() {
            let mut der = der.clone();
            der[index] ^= 0xff;
            let _ = node_of_certificate(&der);
        }
    }
}
