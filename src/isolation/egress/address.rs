//! What kind of place an address is. Pure.
//!
//! The table is IANA's of special-purpose addresses (<https://www.iana.org/assignments/iana-ipv4-special-registry/>, the same for IPv6),
//! and what clouds put in other ranges. Addresses that carry another one inside are unwrapped: their place is that of the inner one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Nearest to everybody first: who may reach one place may reach those before it, except `Loopback`, which is always named with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Public,
    /// Of no use outside of a network: private, shared, documentation, reserved.
    Inside,
    /// This machine.
    Loopback,
    /// Link-local, metadata services, many receivers at once, nobody.
    Never,
}

const V4: &[(Ipv4Addr, u32, Place)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, Place::Never),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Place::Inside),
    // Metadata of one cloud; the rest is shared by customers of a provider.
    (Ipv4Addr::new(100, 100, 100, 200), 32, Place::Never),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Place::Inside),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Place::Loopback),
    // Metadata of another, in a range that belongs to it.
    (Ipv4Addr::new(168, 63, 129, 16), 32, Place::Never),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Place::Never),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Place::Inside),
    // And of a third.
    (Ipv4Addr::new(192, 0, 0, 192), 32, Place::Never),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Place::Inside),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Place::Inside),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Place::Inside),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Place::Inside),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Place::Inside),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Place::Inside),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Place::Inside),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Place::Never),
    (Ipv4Addr::new(255, 255, 255, 255), 32, Place::Never),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Place::Inside),
];

const V6: &[(Ipv6Addr, u32, Place)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, Place::Never),
    (Ipv6Addr::LOCALHOST, 128, Place::Loopback),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Place::Inside),
    // Protocol assignments; Teredo is among them.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Place::Inside),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Place::Inside),
    // What else is public lies here.
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Place::Public),
    // Metadata of two clouds; the rest is unique local.
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, Place::Never),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, Place::Never),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Place::Never),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Place::Never),
];

pub(super) fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Place {
    let covers = |(net, bits, _): &&(Ipv4Addr, u32, Place)| (net.to_bits() ^ address.to_bits()) >> (32 - bits) == 0;
    V4.iter().find(covers).map_or(Place::Public, |(_, _, place)| *place)
}

fn v6(address: Ipv6Addr) -> Place {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let inner = |high: u16, low: u16| v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let by_table = || {
        let covers =
            |(net, bits, _): &&(Ipv6Addr, u32, Place)| (net.to_bits() ^ address.to_bits()) >> (128 - bits) == 0;
        V6.iter().find(covers).map_or(Place::Inside, |(_, _, place)| *place)
    };
    match [a, b, c, d, e, f] {
        // IPv4 written as IPv6, and the translation of a network without IPv4.
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => inner(g, h),
        // A translation of one's own, and what is no longer in use.
        [0x64, 0xff9b, 1, ..] | [0, 0, 0, 0, 0xffff, 0] => inner(g, h).max(Place::Inside),
        [0, 0, 0, 0, 0, 0] if g != 0 || h > 1 => inner(g, h).max(Place::Inside),
        // Tunnels: 6to4, Teredo (server, and client with its bits turned over), ISATAP.
        [0x2002, high, low, ..] => inner(high, low).max(Place::Inside),
        [0x2001, 0, ..] => inner(c, d).max(inner(!g, !h)).max(Place::Inside),
        [_, _, _, _, 0 | 0x200, 0x5efe] => inner(g, h).max(by_table()).max(Place::Inside),
        _ => by_table(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_has_its_place_however_it_is_written() {
        use Place::{Inside, Loopback, Never, Public};
        let table = [
            (
                Public,
                "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.0 172.15.0.1 172.32.0.1 192.0.1.1 198.17.255.255 198.20.0.0 223.255.255.255",
            ),
            (Public, "2606:4700::1111 2a00::1 2001:200::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2600::5efd:a00:1"),
            (
                Inside,
                "10.0.0.1 10.255.255.255 100.64.0.1 172.16.0.1 172.31.255.255 192.168.1.1 192.0.0.8 192.0.2.1 192.88.99.1",
            ),
            (Inside, "198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.80 240.0.0.1 255.255.255.254"),
            (
                Inside,
                "fc00::1 fd00::1 fec0::1 100::1 2001:db8::1 3fff::1 5f00::1 2001:2::1 4000::1 ::ffff:10.0.0.1 64:ff9b::a00:1",
            ),
            (
                Inside,
                "64:ff9b:1::8.8.8.8 ::8.8.8.8 2002:808:808:: 2001:0:808:808::f7f7:f7f7 ::ffff:0:10.0.0.1 2600::5efe:808:808",
            ),
            (
                Loopback,
                "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1:: ::127.0.0.1 2600::5efe:127.0.0.1",
            ),
            (Loopback, "2001:0:808:808::80ff:fffe ::ffff:0:127.0.0.1"),
            (
                Never,
                "0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 100.100.100.200 192.0.0.192 168.63.129.16 224.0.0.1 239.1.1.1 255.255.255.255",
            ),
            (
                Never,
                ":: fe80::1 febf::1 ff02::1 fd00:ec2::254 fd20:ce::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1",
            ),
            (Never, "::ffff:0:0 64:ff9b::e000:1 2001:0:a9fe:a9fe::1 64:ff9b:1::a9fe:a9fe fe80::5efe:808:808"),
        ];
        for (expected, addresses) in table {
            for text in addresses.split(' ') {
                assert_eq!(place(text.parse().unwrap()), expected, "{text}");
            }
        }
    }
}
