//! Which addresses a check may connect to: public ones, and those that the operator allows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(head: [u16; 3], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(head[0], head[1], head[2], 0, 0, 0, 0, 0), bits)
}

const NOT_PUBLIC_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10), // shared by carriers
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),   // link-local, where clouds serve their metadata
    v4(168, 63, 129, 16, 32), // a public address, behind which Azure serves its machines
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

/// The only part of IPv6 that is given out for public use; outside of it lie loopback, link-local, unique local,
/// multicast, and IPv4 in several forms.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// What of [`PUBLIC_V6`] is not public all the same.
const NOT_PUBLIC_V6: [Ipv6Net; 3] =
    [v6([0x2001, 0, 0], 23), v6([0x2001, 0xdb8, 0], 32), v6([0x3fff, 0, 0], 20)];

/// The rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    allowed: Arc<[IpNet]>,
}

impl Addresses {
    /// Public addresses, and those in `allowed`.
    pub(super) fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether a check may connect to `address`.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        let plain = plain(address);
        is_public(plain) || self.allowed.iter().any(|net| net.contains(&address) || net.contains(&plain))
    }
}

/// The IPv4 address that an IPv6 one leads to (mapped, NAT64, 6to4), or the address itself.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(long) = address else { return address };
    if let Some(short) = long.to_ipv4_mapped() {
        return short.into();
    }
    let words = long.segments();
    let joined = |high: u16, low: u16| IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into());
    match words {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => joined(high, low),
        [0x2002, high, low, ..] => joined(high, low),
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(short) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&short)),
        IpAddr::V6(long) => PUBLIC_V6.contains(&long) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&long)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_addresses_are_permitted_and_all_others_are_not() {
        let addresses = Addresses::default();
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:0101:0101::1",
        ] {
            assert!(addresses.permits(address(public)), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "::ffff:0:127.0.0.1",
            "64:ff9b:1::1",
            "fd00:ec2::254",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!addresses.permits(address(other)), "{other}");
        }
    }

    #[test]
    fn what_the_operator_allows_is_permitted_in_every_form() {
        let addresses = Addresses::new(&["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);

        for allowed in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert!(addresses.permits(address(allowed)), "{allowed}");
        }
        assert!(!addresses.permits(address("10.0.0.1")));
    }
}
