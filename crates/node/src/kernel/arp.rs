//! Gratuitous ARP: "this address is at this hardware address now" (RFC 5227 section 2.3, ARP Announcement).
#![allow(
    unsafe_code,
    reason = "nix has no packet-socket address; the unsafe is one sendto call with a sockaddr_ll"
)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use fairway_netns::Mac;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Bytes of an Ethernet header and an ARP packet for IPv4.
const FRAME_LEN: usize = 42;
const ETHERTYPE_ARP: u16 = 0x0806;

/// The frame. An announcement is a request whose sender and target address are the same.
fn frame(mac: Mac, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    const BROADCAST: [u8; 6] = [0xff; 6];
    // Ethernet, IPv4, 6 and 4 bytes, request.
    const HEADER: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let parts: [&[u8]; 8] = [
        &BROADCAST,
        &mac.0,
        &ETHERTYPE_ARP.to_be_bytes(),
        &HEADER,
        &mac.0,
        &address.octets(),
        &[0; 6],
        &address.octets(),
    ];
    let mut frame = [0; FRAME_LEN];
    frame.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    frame
}

/// Sends it on the link, in the namespace of the calling thread.
pub(super) fn announce(link: u32, mac: Mac, address: Ipv4Addr) -> io::Result<()> {
    let frame = frame(mac, address);
    // Protocol 0: this socket receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE_ARP.to_be(),
        sll_ifindex: i32::try_from(link).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    };
    // SAFETY: the descriptor is open; frame and address live through the call, and their lengths are those of the values.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_an_announcement() {
        let frame = frame(Mac([2, 0, 0, 0, 0, 9]), [10, 200, 0, 130].into());
        let want = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // request for IPv4 over Ethernet
            2, 0, 0, 0, 0, 9, 10, 200, 0, 130, // sender
            0, 0, 0, 0, 0, 0, 10, 200, 0, 130, // target
        ];
        assert_eq!(frame, want);
    }
}
