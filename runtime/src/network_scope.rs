//! How far away from this process a server is. A response proves that the network works up to there.

use std::net::IpAddr;

use crate::address_policy::is_public;

/// Part of the network between this process and a server; later variants include earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkScope {
    /// This machine alone.
    Machine,
    /// Networks with addresses of their own, such as that of an office.
    Private,
    /// The internet. An unknown address counts as one in it.
    Internet,
}

impl NetworkScope {
    /// Scope of a connection to `address`.
    pub fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Machine,
            address if is_public(address) => Self::Internet,
            _ => Self::Private,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_internet_is_farther_than_an_office_and_an_office_than_this_machine() {
        let scope = |address: &str| NetworkScope::of_address(address.parse().unwrap());

        assert_eq!((scope("127.9.0.1"), scope("::1")), (NetworkScope::Machine, NetworkScope::Machine));
        assert_eq!(scope("::ffff:127.0.0.1"), NetworkScope::Machine);
        assert_eq!((scope("192.168.1.9"), scope("fd00::1")), (NetworkScope::Private, NetworkScope::Private));
        assert_eq!(scope("1.1.1.1"), NetworkScope::Internet);
        assert!(scope("2606:4700::1111") > scope("10.0.0.1") && scope("10.0.0.1") > scope("127.0.0.1"));
    }
}
