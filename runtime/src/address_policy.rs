//! Address policy: checks and notifications may connect to public addresses and to networks allowed
//! by the operator. It applies to each connection, after the lookup of a name (SSRF protection).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn ipv4_net(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn ipv6_net(head: [u16; 3], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(head[0], head[1], head[2], 0, 0, 0, 0, 0), bits)
}

const NON_PUBLIC_V4_NETS: [Ipv4Net; 17] = [
    ipv4_net(0, 0, 0, 0, 8),
    ipv4_net(10, 0, 0, 0, 8),
    ipv4_net(100, 64, 0, 0, 10), // shared by carriers
    ipv4_net(127, 0, 0, 0, 8),
    ipv4_net(169, 254, 0, 0, 16), // link-local, where clouds serve their metadata
    ipv4_net(168, 63, 129, 16, 32), // a public address, behind which Azure serves its machines
    ipv4_net(172, 16, 0, 0, 12),
    ipv4_net(192, 0, 0, 0, 24),
    ipv4_net(192, 0, 2, 0, 24),
    ipv4_net(192, 88, 99, 0, 24),
    ipv4_net(192, 168, 0, 0, 16),
    ipv4_net(198, 18, 0, 0, 15),
    ipv4_net(198, 51, 100, 0, 24),
    ipv4_net(203, 0, 113, 0, 24),
    ipv4_net(224, 0, 0, 0, 4),
    ipv4_net(240, 0, 0, 0, 4),
    ipv4_net(255, 255, 255, 255, 32),
];

/// The only part of IPv6 allocated for public use. Loopback, link-local, unique local, multicast
/// and several forms of embedded IPv4 lie outside of it.
const PUBLIC_V6_NET: Ipv6Net = ipv6_net([0x2000, 0, 0], 3);

/// Non-public parts of [`PUBLIC_V6_NET`].
const NON_PUBLIC_V6_NETS: [Ipv6Net; 3] =
    [ipv6_net([0x2001, 0, 0], 23), ipv6_net([0x2001, 0xdb8, 0], 32), ipv6_net([0x3fff, 0, 0], 20)];

/// Rule for the addresses that a process may connect to. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    allowed_networks: Arc<[IpNet]>,
}

impl AddressPolicy {
    /// Allows public addresses and addresses in `allowed`.
    pub fn new(allowed: &[IpNet]) -> Self {
        Self { allowed_networks: allowed.into() }
    }

    /// Allows every address, for destinations that the operator of the process configured.
    pub fn unrestricted() -> Self {
        Self::new(&[IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())])
    }

    /// The allowed ones of the addresses of a name; forbidden ones are only skipped.
    ///
    /// # Errors
    /// If there are addresses and none is allowed. The error is the first address.
    pub fn vet_addresses(&self, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, IpAddr> {
        let first = found.first().copied();
        let vetted: Vec<IpAddr> = found.into_iter().filter(|address| self.is_allowed(*address)).collect();
        match first {
            Some(first) if vetted.is_empty() => Err(first),
            _ => Ok(vetted),
        }
    }

    /// Returns true if the process may connect to `address`.
    pub fn is_allowed(&self, address: IpAddr) -> bool {
        let plain = unmap_ipv4(address);
        is_public(plain)
            || self.allowed_networks.iter().any(|net| net.contains(&address) || net.contains(&plain))
    }
}

/// IPv4 address embedded in an IPv6 address (mapped, NAT64, 6to4), or the address itself.
fn unmap_ipv4(address: IpAddr) -> IpAddr {
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

/// Returns true if `address` belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(short) => !NON_PUBLIC_V4_NETS.iter().any(|net| net.contains(&short)),
        IpAddr::V6(long) => {
            PUBLIC_V6_NET.contains(&long) && !NON_PUBLIC_V6_NETS.iter().any(|net| net.contains(&long))
        }
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
        let addresses = AddressPolicy::default();
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:0101:0101::1",
        ] {
            assert!(addresses.is_allowed(address(public)), "{public}");
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
            assert!(!addresses.is_allowed(address(other)), "{other}");
        }
    }

    #[test]
    fn forbidden_addresses_of_a_name_are_skipped_unless_there_is_no_other() {
        let (public, metadata) = (address("1.1.1.1"), address("169.254.169.254"));
        let policy = AddressPolicy::default();

        assert_eq!(policy.vet_addresses(vec![metadata, public]), Ok(vec![public]));
        assert_eq!(policy.vet_addresses(vec![metadata]), Err(metadata));
        assert_eq!(policy.vet_addresses(Vec::new()), Ok(Vec::new()));
    }

    #[test]
    fn an_allowed_network_is_permitted_in_every_notation() {
        let addresses = AddressPolicy::new(&["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);

        for allowed in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert!(addresses.is_allowed(address(allowed)), "{allowed}");
        }
        assert!(!addresses.is_allowed(address("10.0.0.1")));
    }
}
