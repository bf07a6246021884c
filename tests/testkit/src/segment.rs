//! TCP segments that a kernel would not send.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// Sends a segment with no flag set, not even ACK. Connection tracking classifies it as invalid
/// regardless of the connection's state, and a host answers it with a reset.
///
/// # Panics
///
/// When the segment cannot be sent.
pub fn send_invalid_segment(from: &Namespace, source: SocketAddr, to: SocketAddr) {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    // The data offset, in words of four bytes, and a window.
    segment[12] = 5 << 4;
    segment[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let checksum = checksum(source.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let socket = from.run(|| {
        Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))
            .expect("a raw socket opens")
    });
    // The kernel writes the IP header and ignores the ports of these addresses.
    socket
        .bind(&SocketAddr::new(source.ip(), 0).into())
        .expect("the source is one of the namespace");
    let sent = socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into());
    assert_eq!(sent.expect("the segment is sent"), segment.len());
}

/// Computes the checksum of a segment, including the pseudo-header (RFC 9293, section 3.1).
fn checksum(source: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    const TCP: u8 = 6;
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u8::try_from(segment.len()).expect("the segment is one header");
    let all = [&octets(source)[..], &octets(to), &[0, TCP, 0, length], segment].concat();
    let words = all.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the sum has been folded")
}
