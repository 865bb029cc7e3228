use proptest::prelude::*;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken line\ndev:x:1000:1000:Dev,,,:/home/dev:/bin/sh\n\
                      nohome:x:7:7:::/bin/false\n1001:x:55:55::/odd:/bin/sh\n";
const GROUP: &str =
    "root:x:0:\nsudo:x:27:dev,other\ndev:x:1000:\ndocker:x:999:other,dev\nbad:x:notanumber:dev\n";

fn accounts() -> Accounts {
    Accounts { passwd: PASSWD.into(), group: GROUP.into() }
}

#[test]
fn a_user_gets_home_and_supplementary_groups() {
    let dev = accounts().identity("dev").unwrap();
    assert_eq!((dev.uid, dev.gid, dev.home.as_str()), (1000, 1000, "/home/dev"));
    assert_eq!(dev.groups, [27, 999]);
    assert_eq!(accounts().identity("1000").unwrap(), dev);
}

#[test]
fn a_named_group_replaces_the_others() {
    let dev = accounts().identity("dev:docker").unwrap();
    assert_eq!((dev.gid, dev.groups.len()), (999, 0));
    assert_eq!(accounts().identity("dev:4242").unwrap().gid, 4242);
}

#[test]
fn numbers_need_no_entry_and_names_win_over_numbers() {
    let nobody = accounts().identity("65534:12").unwrap();
    assert_eq!(
        (nobody.uid, nobody.gid, nobody.name.as_str(), nobody.home.as_str()),
        (65534, 12, "65534", "/")
    );
    assert_eq!(accounts().identity("1001").unwrap().uid, 55);
    assert_eq!(accounts().identity("nohome").unwrap().home, "/");
}

#[test]
fn unknown_names_are_told() {
    assert_eq!(accounts().identity("ghost"), Err(UnknownAccount::User("ghost".into())));
    assert_eq!(accounts().identity("dev:ghosts"), Err(UnknownAccount::Group("ghosts".into())));
    assert_eq!(accounts().identity("-1"), Err(UnknownAccount::User("-1".into())));
    assert!(Accounts::default().identity("root").is_err());
    assert_eq!(Accounts::default().identity("0").unwrap().uid, 0);
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(
        passwd in prop::collection::vec(any::<u8>(), 0..500),
        group in prop::collection::vec(any::<u8>(), 0..500),
        spec in ".{0,12}",
    ) {
        let _ = Accounts { passwd, group }.identity(&spec);
    }
}
