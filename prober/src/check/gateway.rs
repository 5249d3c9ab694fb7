//! First hop of the way to an address, as the kernel knows it: a link without carrier, or a gateway
//! that does not answer ARP, is this machine's trouble and not the site's.
//!
//! Read only after a connection has failed. What cannot be read proves nothing: then the failure is
//! the site's. The main routing table alone is read, so that a way through another table (a VPN) is
//! blocked only if the gateway of the main table was asked and did not answer.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// First hop to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FirstHop {
    interface: String,
    /// Absent if the address is on a connected network.
    gateway: Option<Ipv4Addr>,
}

/// Returns true if packets to `address` do not leave this machine, or do not get beyond it: the
/// link has no carrier, or the gateway does not answer. A host on a connected network that does not
/// answer is a site that is down.
pub(super) fn is_way_blocked(address: IpAddr) -> bool {
    // Networks belong to threads; `/proc/net` is that of the process.
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let hop = match address {
        IpAddr::V4(address) => find_ipv4_hop(&read("route"), address),
        IpAddr::V6(address) => find_ipv6_hop(&read("ipv6_route"), address),
    };
    let Some(hop) = hop else { return false };
    let carrier = fs::read_to_string(format!("/sys/class/net/{}/carrier", hop.interface));
    if carrier.is_ok_and(|carrier| carrier.trim() == "0") {
        return true;
    }
    hop.gateway.is_some_and(|gateway| is_unresolved(&read("arp"), gateway, &hop.interface))
}

/// First hop to an IPv4 address by `/proc/net/route`: the longest prefix, then the lowest metric.
fn find_ipv4_hop(table: &str, address: Ipv4Addr) -> Option<FirstHop> {
    const UP: u32 = 1;
    // Addresses are numbers in the machine's byte order.
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let wanted = u32::from_ne_bytes(address.octets());
    let matching = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [interface, network, gateway, flags, _, _, metric, mask, ..] = columns.as_slice() else {
            return None;
        };
        let (network, gateway, mask) = (number(network)?, number(gateway)?, number(mask)?);
        if number(flags)? & UP == 0 || wanted & mask != network {
            return None;
        }
        let gateway = (gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()));
        let hop = FirstHop { interface: (*interface).to_owned(), gateway };
        Some(((mask.count_ones(), std::cmp::Reverse(metric.parse::<u32>().ok()?)), hop))
    });
    matching.max_by_key(|(rank, _)| *rank).map(|(_, hop)| hop)
}

/// First hop to an IPv6 address by `/proc/net/ipv6_route`. Its gateway is not named, because the
/// kernel lists no IPv6 neighbours in `/proc`.
fn find_ipv6_hop(table: &str, address: Ipv6Addr) -> Option<FirstHop> {
    const UP: u32 = 1;
    const REJECT: u32 = 0x200;
    let wanted = u128::from(address);
    let matching = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [network, length, _, _, _, metric, _, _, flags, interface] = columns.as_slice() else {
            return None;
        };
        let network = u128::from_str_radix(network, 16).ok()?;
        let length = u32::from_str_radix(length, 16).ok().filter(|length| *length <= 128)?;
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        if flags & UP == 0 || flags & REJECT != 0 || wanted & mask != network {
            return None;
        }
        let metric = std::cmp::Reverse(u32::from_str_radix(metric, 16).ok()?);
        Some(((length, metric), FirstHop { interface: (*interface).to_owned(), gateway: None }))
    });
    matching.max_by_key(|(rank, _)| *rank).map(|(_, hop)| hop)
}

/// Returns true if `/proc/net/arp` has `neighbour` without a hardware address: it was asked for and
/// did not answer. A neighbour that is not listed was not asked for.
fn is_unresolved(table: &str, neighbour: Ipv4Addr, interface: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [address, _, flags, _, _, device] = columns.as_slice() else { return false };
        address.parse() == Ok(neighbour) && *device == interface && *flags == "0x0"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of an address in the table.
    fn hex(address: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(address))
    }

    /// Interface, network, gateway, metric and mask.
    type Ipv4Route<'a> = (&'a str, [u8; 4], [u8; 4], u32, [u8; 4]);

    fn ipv4_table(routes: &[Ipv4Route<'_>]) -> String {
        let lines = routes.iter().map(|(interface, network, gateway, metric, mask)| {
            let (network, gateway, mask) = (hex(*network), hex(*gateway), hex(*mask));
            format!("{interface}\t{network}\t{gateway}\t0003\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        });
        format!("Iface\tDestination\tGateway\tFlags\n{}", lines.collect::<String>())
    }

    #[test]
    fn the_longest_prefix_and_then_the_lowest_metric_is_the_way() {
        let table = ipv4_table(&[
            ("wlan0", [0; 4], [192, 168, 7, 1], 600, [0; 4]),
            ("eth0", [0; 4], [192, 168, 1, 1], 100, [0; 4]),
            ("eth0", [192, 168, 1, 0], [0; 4], 100, [255, 255, 255, 0]),
            ("tun0", [10, 0, 0, 0], [10, 8, 0, 1], 0, [255, 0, 0, 0]),
        ]);
        let hop =
            |address: [u8; 4]| find_ipv4_hop(&table, address.into()).map(|hop| (hop.interface, hop.gateway));

        assert_eq!(hop([93, 184, 216, 34]), Some(("eth0".to_owned(), Some([192, 168, 1, 1].into()))));
        assert_eq!(
            hop([192, 168, 1, 9]),
            Some(("eth0".to_owned(), None)),
            "a connected network has no gateway"
        );
        assert_eq!(hop([10, 1, 2, 3]), Some(("tun0".to_owned(), Some([10, 8, 0, 1].into()))));
        assert_eq!(find_ipv4_hop("", [10, 1, 2, 3].into()), None);
        assert_eq!(find_ipv4_hop("Iface\nnonsense\n", [10, 1, 2, 3].into()), None);
    }

    #[test]
    fn an_ipv6_way_is_not_one_that_rejects() {
        let table = "\
            20010db8000000000000000000000000 20 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 1 0 00000001 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth1\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 1 0 00200200 lo\n";
        let hop = |address: &str| find_ipv6_hop(table, address.parse().unwrap()).map(|hop| hop.interface);

        assert_eq!(hop("2001:db8::7").as_deref(), Some("eth0"));
        assert_eq!(hop("2606:4700::1").as_deref(), Some("eth1"));
    }

    #[test]
    fn a_gateway_that_was_asked_for_and_did_not_answer_is_known_by_its_missing_address() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     192.168.1.1      0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     192.168.1.2      0x1         0x2         02:42:ac:11:00:02     *        eth0\n";

        assert!(is_unresolved(table, [192, 168, 1, 1].into(), "eth0"));
        assert!(!is_unresolved(table, [192, 168, 1, 1].into(), "eth1"));
        assert!(!is_unresolved(table, [192, 168, 1, 2].into(), "eth0"));
        assert!(!is_unresolved(table, [192, 168, 1, 3].into(), "eth0"), "it was not asked for");
    }

    #[test]
    fn the_way_to_this_machine_is_open() {
        assert!(!is_way_blocked([127, 0, 0, 1].into()));
    }
}
