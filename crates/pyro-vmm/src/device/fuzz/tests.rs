use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// The rig gives at most three queues their rings; behind those, memory is free.
const QUEUES: usize = 3;
const MEMORY: u64 = FIRST_RING as u64 + QUEUES as u64 * RINGS_BYTES;
/// Memory is made of blocks, each of which starts with something that the device understands.
const BLOCK: usize = 64;
const BLOCKS: usize = 24;

/// One queue's rings, wrong in every way, but right often enough to be served.
fn rings() -> impl Strategy<Value = Vec<u8>> {
    let block = (0..BLOCKS as u64).prop_map(|n| MEMORY + n * BLOCK as u64);
    let descriptor = (prop_oneof![block, 0u64..0x1_1000], 0u32..0x2000, 0u16..8, 0u16..20);
    let heads = vec(0u16..18, usize::from(QUEUE_SIZE));
    (vec(descriptor, usize::from(QUEUE_SIZE)), heads, 0u16..20).prop_map(|(descriptors, heads, avail)| {
        let mut bytes = vec![0; RINGS_BYTES as usize];
        bytes[2..4].copy_from_slice(&avail.to_le_bytes());
        for (n, head) in heads.iter().enumerate() {
            bytes[4 + 2 * n..6 + 2 * n].copy_from_slice(&head.to_le_bytes());
        }
        for (n, (addr, len, flags, next)) in descriptors.iter().enumerate() {
            let place = DESCRIPTORS as usize + 16 * n;
            bytes[place..place + 8].copy_from_slice(&addr.to_le_bytes());
            bytes[place + 8..place + 12].copy_from_slice(&len.to_le_bytes());
            bytes[place + 12..place + 14].copy_from_slice(&flags.to_le_bytes());
            bytes[place + 14..place + 16].copy_from_slice(&next.to_le_bytes());
        }
        bytes
    })
}

/// What the rig takes: rings, and memory of blocks that start like `content`.
fn guest(content: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), vec(rings(), QUEUES), vec(content, BLOCKS)).prop_map(|(flags, rings, blocks)| {
        let mut bytes = vec![flags];
        rings.iter().for_each(|rings| bytes.extend(rings));
        for mut block in blocks {
            block.resize(BLOCK, 7);
            bytes.extend(block);
        }
        bytes
    })
}

fn block_request() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![0u32..16, any::<u32>()];
    let sector = prop_oneof![0u64..400, any::<u64>()];
    (kind, sector)
        .prop_map(|(kind, sector)| [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0u32..70_000, any::<u32>()];
    let hosts = (0..CONNECTS).prop_map(|n| (GUEST_PORT, FIRST_HOST_PORT + n));
    let ports = prop_oneof![(0u32..3, 0u32..3), hosts];
    (0u16..10, ports, len, 0u32..5, any::<(u32, u32)>()).prop_map(
        |(operation, (src_port, dst_port), len, flags, (buf_alloc, fwd_cnt))| {
            let (src_cid, dst_cid) = (GUEST_CID, HOST_CID);
            let header = Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len,
                operation: None,
                flags,
                buf_alloc,
                fwd_cnt,
            };
            let mut bytes = header.emit().to_vec();
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            bytes
        },
    )
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..BLOCK)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn hostile_queues_neither_panic_nor_hang(
        blocks in guest(block_request()), packets in guest(packet()), bytes in guest(anything()),
    ) {
        fuzz_block_queue(&blocks);
        fuzz_vsock_queue(&packets);
        fuzz_small_queues(&bytes);
        fuzz_net_queue(&bytes);
    }

    #[test]
    fn noise_neither_panics_nor_hangs(bytes in vec(any::<u8>(), 0..0x1400)) {
        fuzz_block_queue(&bytes);
        fuzz_vsock_queue(&bytes);
        fuzz_small_queues(&bytes);
        fuzz_net_queue(&bytes);
    }
}

/// How many of a hundred hostile guests get as far as having a chain used.
fn served(guests: impl Strategy<Value = Vec<u8>>, serve: impl Fn(&[u8]) -> bool) -> usize {
    let mut runner = TestRunner::deterministic();
    (0..100).filter(|_| serve(&guests.new_tree(&mut runner).unwrap().current())).count()
}

#[test]
fn most_hostile_guests_reach_their_device() {
    assert!(served(guest(block_request()), fuzz_block_queue) > 50);
    assert!(served(guest(packet()), fuzz_vsock_queue) > 50);
    assert!(served(guest(anything()), fuzz_net_queue) > 50);
    assert!(served(guest(anything()), |bytes| serve_hostile(&mut crate::device::rng::Rng, bytes)) > 50);
    assert!(served(guest(anything()), serve_balloon) > 50);
    let console = || crate::device::console::Console::new(crate::device::console::SharedLog::new(1000));
    assert!(served(guest(anything()), |bytes| serve_hostile(&mut console(), bytes)) > 50);
}
