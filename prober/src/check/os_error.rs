//! The machine's own limits: errors for lack of its resources, and its routes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// Returns true if this machine is out of files, ports, buffers or memory.
pub(super) fn is_resource_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

/// Returns true if this machine has a route to public addresses. Addresses reserved for
/// documentation serve as examples.
pub(super) fn has_public_route() -> bool {
    const EXAMPLES: [IpAddr; 4] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ];
    EXAMPLES.iter().any(|example| has_route(SocketAddr::new(*example, 53)))
}

/// Returns true if this machine has a source address and a route to `place`. Sends nothing.
pub(super) fn has_route(place: SocketAddr) -> bool {
    use rustix::io::Errno;
    const NOWHERE: [Errno; 6] = [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::NETDOWN,
        Errno::ADDRNOTAVAIL,
        Errno::AFNOSUPPORT,
        Errno::ACCESS,
    ];
    let socket = match place {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let failed = socket.and_then(|socket| socket.connect(place)).err().and_then(|why| why.raw_os_error());
    // A lack of files or memory says nothing about routes.
    !failed.is_some_and(|code| NOWHERE.iter().any(|errno| errno.raw_os_error() == code))
}
