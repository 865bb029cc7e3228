use clap::Parser;

use super::image::{load_order, payload, unsigned};
use super::session::{Exit, parse_exit};
use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn parsed(words: &[&str]) -> Result<Command, clap::Error> {
    Line::try_parse_from([&["lab"], words].concat()).map(|line| line.arguments.command)
}

fn size(words: &[&str]) -> Result<Size> {
    let Command::Run(run) = parsed(&[&["run"], words, &["--", "true"]].concat()).unwrap() else { panic!() };
    run.size.size()
}

fn job(account: Account) -> Job {
    Job {
        shares: vec![
            Share { directory: "/tree".into(), access: Access::Read },
            Share { directory: "/out, and in".into(), access: Access::Write },
        ],
        packed: vec!["/tree/target/pyro".into()],
        directory: "/tree/crate".into(),
        account,
        words: vec!["echo".into(), "it's".into()],
    }
}

/// QEMU's command line as one text, a space between words.
fn command_line(clock: Clock) -> String {
    let size = Size { cpu_count: 2, mem_mib: 512, clock };
    let image = image::Image::at("/cache/key".into());
    let job = job(Account::Root);
    let words = machine::qemu_words(&image, size, Path::new("/scratch"), &job.shares, Path::new("/run/1"));
    words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn words_after_two_dashes_are_the_command() {
    let Ok(Command::Run(run)) = parsed(&["run", "--share", "a", "--share", "b", "--", "ls", "--smp"]) else {
        panic!()
    };
    assert_eq!((run.words.len(), run.share.len(), run.size.smp), (2, 2, 1));
    assert!(parsed(&["run"]).is_err() && parsed(&["run", "--smp", "2"]).is_err());
}

#[test]
fn instructions_are_counted_on_one_processor() {
    let counted = size(&["--icount"]).unwrap();
    assert_eq!((counted.cpu_count, counted.clock), (1, Clock::Instructions));
    assert!(size(&["--icount", "--smp", "2"]).is_err());
    let four = size(&["--smp", "4"]).unwrap();
    assert_eq!((four.cpu_count, four.mem_mib), (4, 2048 + 4 * 1024));
    assert_eq!(size(&["--smp", "4", "--mem-mib", "900"]).unwrap().mem_mib, 900);
}

#[test]
fn sizes_go_on_as_the_same_words() {
    let Ok(Command::Run(run)) = parsed(&["run", "--smp", "3", "--mem-mib", "700", "--", "true"]) else {
        panic!()
    };
    assert_eq!(run.size.words(), ["--smp=3", "--mem-mib=700"]);
}

#[test]
fn qemu_is_told_of_disks_ports_and_shares() {
    let line = command_line(Clock::Host);
    for part in [
        "-smp 2 -m 512M",
        "tcg,thread=multi",
        "readonly=on,file=/cache/key/root.ext4",
        "snapshot=on,cache=unsafe,discard=unmap,file=/scratch",
        "socket,id=control,path=/run/1/control",
        "readonly=on,path=/tree ",
        // Two commas are one that does not separate.
        "readonly=off,path=/out,, and in",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("-icount"));
    let counted = command_line(Clock::Instructions);
    assert!(counted.contains("-icount shift=0,sleep=off") && counted.contains("tcg,thread=single"));
    assert!(counted.contains("norandmaps"));
}

#[test]
fn the_script_puts_everything_to_its_place_and_becomes_the_command() {
    let script = job(Account::Root).script().unwrap();
    let order = [
        "mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,access=any,ro share0 '/tree'",
        "share1 '/out, and in'",
        "mount --bind /scratch/pack/0 '/tree/target/pyro'",
        "cd '/tree/crate'",
        r"exec 'echo' 'it'\''s'",
    ];
    let places: Vec<usize> = order.iter().map(|part| script.find(part).expect(part)).collect();
    assert!(places.is_sorted(), "{script}");
    let ordinary = job(Account::Ordinary).script().unwrap();
    assert!(ordinary.contains("setpriv --reuid=pyro") && ordinary.ends_with("'echo' 'it'\\''s'\n"));
    assert!(Job { words: Vec::new(), ..job(Account::Root) }.script().is_err());
}

#[test]
fn the_scripts_are_shell_that_parses() {
    for (shell, text) in
        [("sh", job(Account::Ordinary).script().unwrap()), ("bash", include_str!("second.sh").into())]
    {
        let checked = std::process::Command::new(shell).args(["-n", "-c", &text]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    let first =
        std::process::Command::new("sh").args(["-n", "-c", include_str!("first.sh")]).status().unwrap();
    assert!(first.success());
}

#[test]
fn modules_load_after_what_they_need() {
    let list = "kernel/fs/ext4.ko: kernel/fs/jbd2.ko kernel/lib/crc16.ko\nkernel/fs/jbd2.ko:\nkernel/lib/crc16.ko:\n\
                kernel/drivers/blk.ko: kernel/drivers/virtio.ko kernel/drivers/ring.ko\n";
    let order = load_order(list, &["blk", "ext4", "jbd2"]).unwrap();
    let names: Vec<&str> = order.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["ring.ko", "virtio.ko", "blk.ko", "crc16.ko", "jbd2.ko", "ext4.ko"]);
    assert_eq!(load_order(list, &["xfs"]).unwrap_err().to_string(), "the kernel has no module xfs");
}

#[test]
fn a_signature_is_taken_off_and_nothing_else() {
    let mut signed = b"module".to_vec();
    signed.extend_from_slice(b"sig");
    signed.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    signed.extend_from_slice(b"~Module signature appended~\n");
    assert_eq!(unsigned(&signed), b"module");
    assert_eq!(unsigned(b"module"), b"module");
    let cut = &signed[signed.len() - 30..];
    assert_eq!(unsigned(cut), cut);
}

#[test]
fn the_payload_of_a_kernel_lies_behind_its_setup() {
    let mut image = vec![0; 0x800];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x248..0x24c].copy_from_slice(&0x10_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&8_u32.to_le_bytes());
    image[0x410..0x418].copy_from_slice(b"data\x04\0\0\0");
    assert_eq!(payload(&image).unwrap(), b"data");
    image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(payload(&image).is_err() && payload(b"\x7fELF").is_err());
}

#[test]
fn the_last_line_of_a_port_is_read_as_a_whole() {
    assert_eq!(parse_exit("exit 7 10 20"), Some(Exit { status: 7, stdout_bytes: 10, stderr_bytes: 20 }));
    for line in ["exit 7 10", "exit 256 1 1", "exit 7 10 20 30", "ready", "exit 7  10", ""] {
        assert_eq!(parse_exit(line), None, "{line}");
    }
}

#[test]
fn a_pack_is_a_disk_with_its_files_in_order() {
    let place = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| place.path().join(name));
    std::fs::write(&paths[0], "first").unwrap();
    std::fs::create_dir(&paths[1]).unwrap();
    std::fs::write(paths[1].join("inside"), "second").unwrap();
    assert!(Pack::make(&[]).unwrap().is_none());
    let pack = Pack::make(&paths).unwrap().unwrap();
    let read = |path: &str| {
        let mut debugfs = std::process::Command::new("/usr/sbin/debugfs");
        crate::steps::read(debugfs.args(["-R", &format!("cat {path}")]).arg(pack.disk())).unwrap()
    };
    assert_eq!((read("pack/0"), read("pack/1/inside")), ("first".to_owned(), "second".to_owned()));
}
