use super::netlink::{acknowledged, address, default_route, link_up};
use super::*;

#[test]
fn messages_are_as_the_kernel_wants_them() {
    let hex = |message: netlink::Message| hex::encode(message.finish());
    assert_eq!(
        hex(link_up(2, 1500)),
        "28000000100005000000000000000000\
         00000000020000000100000001000000\
         08000400dc050000"
    );
    assert_eq!(
        hex(address(2, "198.19.255.2".parse().unwrap(), 24)),
        "28000000140005050000000000000000\
         0218020002000000\
         08000200c613ff0208000100c613ff02"
    );
    assert_eq!(
        hex(default_route(2, "fd70::1".parse().unwrap())),
        "38000000180005050000000000000000\
         0a000000fe03000100000000\
         14000500fd700000000000000000000000000001\
         0800040002000000"
    );
}

#[test]
fn the_kernels_answer_is_an_error_number_or_strange() {
    let answer = |code: i32| {
        let mut bytes = vec![0; 36];
        bytes[4..6].copy_from_slice(&2u16.to_ne_bytes());
        bytes[16..20].copy_from_slice(&code.to_ne_bytes());
        bytes
    };
    assert!(acknowledged(&answer(0)).is_ok());
    assert_eq!(acknowledged(&answer(-libc::ENODEV)).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    assert!(acknowledged(&answer(i32::MIN)).is_err());
    assert!(acknowledged(&[0; 36]).is_err() && acknowledged(&[]).is_err());
}

#[test]
fn a_link_in_the_place_of_the_resolvers_file_gives_way_and_its_target_does_not() {
    let etc = tempfile::tempdir().unwrap();
    let path = etc.path().join("resolv.conf");
    let target = etc.path().join("stub");
    fs::write(&target, "the service's own").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    let servers = ["198.19.255.1".parse().unwrap(), "fd70::1".parse().unwrap()];
    for _ in 0..2 {
        write_resolver(etc.path(), &servers).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 198.19.255.1\nnameserver fd70::1\n");
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "the service's own");
    assert_eq!(fs::read_dir(etc.path()).unwrap().count(), 2);
}

#[test]
fn what_makes_no_interface_is_refused() {
    let address = |address: &str, prefix, gateway: &str| pyro_agent::wire::LinkAddress {
        address: address.parse().unwrap(),
        prefix,
        gateway: gateway.parse().unwrap(),
    };
    let network = |addresses| Network { addresses, name_servers: Vec::new(), mtu: 1500 };
    assert!(check(&network(vec![address("10.0.0.2", 24, "10.0.0.1")])).is_ok());
    for addresses in
        [vec![], vec![address("10.0.0.2", 33, "10.0.0.1")], vec![address("10.0.0.2", 24, "fd70::1")]]
    {
        assert!(check(&network(addresses)).is_err());
    }
}
