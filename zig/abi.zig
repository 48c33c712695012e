//! The shapes that cross between TypeScript and Zig, and nothing else.
//!
//! `manifest.zig` reflects over this file and writes `ffi/abi.gen.ts`; a shape that is not an
//! `extern struct` or an enum of fixed tag does not compile there. Structs cross in buffers, never
//! by value. Change the meaning of a field without changing its shape: raise `version`.

/// Part of the hashed text, for changes of meaning that no layout shows.
pub const version: u32 = 1;

/// Limits that both sides and the peers rely on. Memory for them is taken at open.
pub const engines_max = 32;
pub const guests_max = 64;
pub const workers_max = 64;
pub const ports_max = 1024;
pub const queue_pairs_max = 128;
pub const vrings_max = 2 * queue_pairs_max;
pub const regions_max = 509;
pub const vring_size_max = 32768;
/// What a port's state file has in front of what the library keeps there.
pub const journal_head_bytes_max = 4096;
pub const message_payload_max = 1024;
pub const message_fds_max = 8;
pub const path_bytes_max = 107;
pub const pumps_max = 32;
/// Listeners, connections and watched fds of one pump, together.
pub const pump_tokens_max = 4096;
/// Addresses that an engine knows at once.
pub const macs_max = 8192;
/// Events that one call of `pump_wait` returns.
pub const pump_batch_max = 64;

/// What a fallible call returns below zero. A failed system call is `-1000 - errno`.
pub const Status = enum(i32) {
    ok = 0,
    invalid_argument = -1,
    no_such_handle = -2,
    limit_reached = -3,
    out_of_memory = -4,
    /// A guest range lies outside the memory table, or wraps.
    unmapped = -5,
    misaligned = -6,
    overlap = -7,
    file_too_short = -8,
    /// The fd is not of the kind that the call needs.
    wrong_fd = -9,
    busy = -10,
    not_started = -11,
    already_started = -12,
    would_block = -13,
    closed = -14,
    /// A worker did not reach its safe point in time.
    stuck = -15,
};

pub const IdleMode = enum(u32) { adaptive = 0, busy = 1, sleep = 2 };

pub const VringFd = enum(u32) { kick = 0, call = 1, err = 2 };

pub const FdKind = enum(u32) { other = 0, eventfd = 1, file = 2, socket = 3, pipe = 4, directory = 5, closed = 6 };

/// Frames that one call of `vring_receive` or `vring_send` moves.
pub const packets_max = 64;
/// A frame is never longer.
pub const packet_bytes_max = 65589;
/// Room that `vring_receive` needs for each frame that it may bring.
pub const packet_room_max = 65664;

/// Uplinks that may be open at once.
pub const uplinks_max = 64;

pub const EngineConfig = extern struct {
    ports_max: u32,
    /// A MAC address not seen for so long is forgotten.
    mac_age_ms: u32,

    comptime {
        assertShape(EngineConfig, 8);
    }
};

pub const WorkerConfig = extern struct {
    /// CPU to run on, -1 for any.
    cpu: i32,
    idle: IdleMode,

    comptime {
        assertShape(WorkerConfig, 8);
    }
};

pub const PortConfig = extern struct {
    queue_pairs: u32,
    /// 0: no limit.
    mtu: u32,

    comptime {
        assertShape(PortConfig, 8);
    }
};

/// What is done with the frames from a guest. All but the first two as testpmd's modes do it.
pub const ForwardMode = enum(u32) {
    /// They go through the switch.
    learn = 0,
    /// They stay in the guest's rings.
    none = 1,
    io = 2,
    mac = 3,
    macswap = 4,
    swap5 = 5,
    rxonly = 6,
    icmpecho = 7,
    csum = 8,
    /// Frames of ours go to the target, and those of the guest stay in its rings.
    txonly = 9,
    /// Frames of ours, of many flows, go to the target, and those of the guest nowhere.
    flowgen = 10,
};

/// Where the frames from a guest go without being switched: from each of its queues to that queue of
/// one other port, or of the same.
pub const Lane = extern struct {
    mode: ForwardMode,
    /// The number of a port.
    target: u32,
    /// Written into the frames by `mac`, answered with by `icmpecho`, and where ours come from.
    own_mac: u64,
    /// Where `mac` sends them, and ours go to.
    peer_mac: u64,
    /// Frames that are moved together, at most; 0: as many as can be.
    burst: u32,
    /// Of a frame of ours; 0: 64.
    frame_bytes: u32,
    /// So many frames of ours go to each queue of the target, once it has buffers for them.
    first: u32,
    /// Of `txonly`: so many follow one another, each from the address after the one before; 0: 1.
    flows: u32,
    /// Of frames of ours, but those of `flowgen`: IPv4 addresses, and ports of UDP.
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    padding: u32,

    comptime {
        assertShape(Lane, 56);
    }
};

/// How frames come from and go to an interface of the host's.
pub const UplinkKind = enum(u32) { tap = 0, packet = 1, xdp = 2 };

/// What is done to open one, in order: where it failed.
pub const UplinkStep = enum(u32) {
    none = 0,
    /// The device file, or the socket.
    device = 1,
    /// Attaching to the interface, or making it.
    attach = 2,
    /// virtio-net headers, and what is left to do in them.
    offload = 3,
    mtu = 4,
    /// Setting it up.
    up = 5,
    // Of XDP, before that:
    /// Memory for frames, which is pinned.
    memory = 6,
    /// Loading the program.
    program = 7,
    /// Attaching that to the interface.
    link = 8,
    /// Binding a socket to a queue.
    queue = 9,
};

/// An interface to be opened, and what it is then.
pub const Uplink = extern struct {
    kind: UplinkKind,
    queue_pairs: u32,
    /// Ends with a zero, at most fifteen bytes before.
    name: [16]u8,
    /// To be set; 0: as it is. Afterwards what it is.
    mtu: u32,
    // What is found.
    step: UplinkStep,
    /// It was not there before, and goes with us.
    created: u32,
    /// It is up.
    up: u32,
    /// To be done: segments of a TCP stream are put together when they come.
    gro: u32,
    /// Of a tap: big packets and unfinished checksums may come; else the kernel cuts and finishes them before.
    offloads: u32,
    /// Of XDP: frames are copied by the kernel, although the driver could do without.
    copy: u32,

    comptime {
        assertShape(Uplink, 52);
    }
};

/// A frame in memory of the caller's.
pub const Packet = extern struct {
    /// Where it begins, in bytes. In front of it is room for a virtio-net header.
    offset: u32,
    /// In bytes, as on the wire without its checksum.
    length: u32,
    /// The virtio-net header of VERSION_1 (virtio 5.1.6), checked against the frame.
    header: [12]u8,

    comptime {
        assertShape(Packet, 20);
    }
};

/// Of a socket that listens at a path: the file, so that no other is taken for it. Both 0: it has none.
pub const SocketFile = extern struct {
    device: u64,
    inode: u64,

    comptime {
        assertShape(SocketFile, 16);
    }
};

/// Who is at the other end of a connection.
pub const SocketPeer = extern struct {
    pid: i32,
    uid: u32,

    comptime {
        assertShape(SocketPeer, 8);
    }
};

/// What an open interface is beside its descriptors, for another process to go on with it.
pub const UplinkState = extern struct {
    /// What the kernel does for us, as features of a device.
    features: u64,
    /// Of the interface, as long as it is the same.
    index: i32,
    /// Of one that was there before, and whose MTU was changed: what it was; else 0.
    mtu_before: u32,
    /// Of what is sent.
    header_bytes: u32,
    // Of a tap:
    /// It goes with us.
    created: u32,
    /// To be restored, where it was there before.
    tap_header_bytes: i32,
    /// It was set up by us.
    raised: u32,
    // Of AF_XDP:
    /// A frame may be longer than a chunk.
    in_pieces: u32,
    padding: u32,

    comptime {
        assertShape(UplinkState, 40);
    }
};

/// One row of the vhost-user memory table, by guest-physical address.
pub const Region = extern struct {
    gpa: u64,
    size_bytes: u64,
    mmap_offset: u64,

    comptime {
        assertShape(Region, 24);
    }
};

/// A stopped ring's configuration; frozen from start to stop. Addresses are guest-physical.
pub const VringConfig = extern struct {
    features: u64,
    desc_gpa: u64,
    avail_gpa: u64,
    used_gpa: u64,
    log_gpa: u64,
    /// Number of descriptors.
    size: u32,
    /// As in VHOST_USER_SET_VRING_BASE.
    base: u32,
    /// As in VHOST_USER_SET_VRING_ADDR.
    flags: u32,
    padding: u32 = 0,

    comptime {
        assertShape(VringConfig, 56);
    }
};

pub const VringState = extern struct {
    /// As in the answer to VHOST_USER_GET_VRING_BASE.
    base: u32,
    started: u32,
    enabled: u32,
    /// `VringBroken` as a number; 0 = whole.
    broken: u32,

    comptime {
        assertShape(VringState, 16);
    }
};

/// Why a ring, or a whole port, gave up until the driver starts it again.
pub const VringBroken = enum(u32) {
    no = 0,
    /// The avail index ran ahead of the ring.
    bad_avail_index = 1,
    bad_head = 2,
    bad_packed_id = 3,
    /// The file behind guest memory was truncated (SIGBUS).
    memory_fault = 4,
    /// The front end made its call eventfd blocking and filled it, so that a worker hung on it.
    call_blocked = 5,
    /// The interface of an uplink was deleted.
    interface_gone = 6,
    /// The guest migrates, and there is nothing to note what we write to it in: until there is, or that is over.
    no_log = 7,
    /// The front end of a guest in post-copy did not fetch a page.
    page_not_fetched = 8,
};

/// Counters of one vring since its port was opened, and, summed, of a port's direction.
/// `drop_*` names why a packet was not delivered; each lost packet counts in exactly one of them.
pub const VringStats = extern struct {
    packets: u64,
    bytes: u64,
    multicast: u64,
    broadcast: u64,
    /// Kick eventfd reads (from the guest) and call eventfd writes (to the guest).
    kicks: u64,
    calls: u64,
    calls_suppressed: u64,
    /// Bursts with at least one packet.
    bursts: u64,
    /// fromGuest: chain with a loop, an unmapped range, a wrong direction or too many descriptors.
    /// toGuest: the same in a buffer that the guest offered.
    drop_bad_chain: u64,
    /// The virtio-net header is missing or cut short, or asks for what its sender did not negotiate.
    drop_bad_header: u64,
    /// Shorter than an Ethernet header.
    drop_runt: u64,
    /// Longer than the receiver's buffers, its MTU, or 65535 + header bytes.
    drop_too_big: u64,
    /// The receiver offered no buffer.
    drop_no_buffer: u64,
    /// The receiver's ring is not started, not enabled or broken.
    drop_link_down: u64,
    /// fromGuest ring started but disabled: taken and discarded (vhost-user, ring states).
    drop_disabled: u64,
    /// Would have to leave by the port it came from.
    drop_same_port: u64,
    /// Flooded, and there was no other port.
    drop_no_port: u64,
    /// The checksum that is left to do would have to be outside the packet.
    drop_bad_csum: u64,
    /// The segmentation that is left to do is unknown, or not of such a packet; counted in the receiver's ring where
    /// that is found out when the packet is cut.
    drop_bad_gso: u64,
    /// toGuest: packets that were cut for a receiver which does not take them whole, and what they were cut into, also
    /// what then found no buffer. In `packets` each of the pieces counts.
    cut: u64,
    pieces: u64,
    /// toGuest: other packets whose checksum was finished for a receiver which does not do it.
    checksums: u64,
    /// From an uplink: packets that became part of the one before, which alone counts in `packets`.
    merged: u64,
    /// Pages of guest memory that were marked as written while the guest migrates, each once until its front end has
    /// taken note.
    log_pages: u64,
    /// fromGuest: taken by a process that died before it gave the buffers back. They may have been delivered.
    drop_crash: u64,
    /// fromGuest: gratuitous ARP, and RARP that was sent for the guest: it says where it is.
    announcements: u64,

    comptime {
        assertShape(VringStats, 26 * 8);
    }
};

pub const WorkerStats = extern struct {
    /// Poll rounds, those that found packets, and the TSC cycles spent in the latter.
    rounds: u64,
    busy_rounds: u64,
    busy_cycles: u64,
    packets: u64,
    sleeps: u64,
    /// Cycles the worker has lived, asleep or not.
    cycles: u64,

    comptime {
        assertShape(WorkerStats, 6 * 8);
    }
};

pub const PumpEventKind = enum(u32) {
    /// `pump_wake` was called, or a watched fd fired (`token` names it, 0 for the wake).
    wake = 0,
    /// A listener (`token`) accepted; the new connection is `value`, and is read after `pump_resume`.
    /// Below zero: it could not, for want of fds or of room (`Status` or `-1000 - errno`), and will try again.
    accepted = 1,
    /// A whole message on connection `token`; nothing more is read from it until `pump_resume`.
    message = 2,
    /// The peer is gone, or its bytes cannot be a message: `value` is a `HangupReason` or `-1000 - errno`.
    /// The connection is closed already, and its token of no more use.
    hangup = 3,
};

pub const HangupReason = enum(i32) {
    closed = 0,
    /// Version bits, or a size over `message_payload_max`.
    bad_header = 1,
    /// Closed in the middle of a message.
    cut_short = 2,
    /// A message was begun and not finished in time.
    stalled = 3,
    /// More fds than `message_fds_max`, or the kernel could not deliver all of them.
    too_many_fds = 4,
    /// Our messages are not read: too many wait, or one waits for too long.
    unread = 5,
};

/// The 12-byte header and the payload are as on the wire; fds belong to the reader of the event.
pub const PumpEvent = extern struct {
    kind: PumpEventKind,
    token: u32,
    value: i32,
    fd_count: u32,
    fds: [message_fds_max]i32,
    request: u32,
    flags: u32,
    size_bytes: u32,
    padding: u32 = 0,
    payload: [message_payload_max]u8,

    comptime {
        assertShape(PumpEvent, 16 + 32 + 16 + message_payload_max);
    }
};

/// A simulated guest's memory and rings, fixed when it is opened.
pub const GuestConfig = extern struct {
    /// As negotiated.
    features: u64,
    /// Guest-physical address of its memory, a multiple of the page size.
    gpa: u64,
    queue_pairs: u32,
    ring_size: u32,
    /// Of every receive buffer, the virtio-net header included.
    buffer_bytes: u32,
    frame_bytes_max: u32,
    /// Pieces that a sent frame, or a receive buffer, is in behind the header, which then has a
    /// descriptor of its own; 0: header and frame in one descriptor.
    send_segments: u32,
    receive_segments: u32,
    /// Not 0: by indirect tables.
    send_indirect: u32,
    receive_indirect: u32,

    comptime {
        assertShape(GuestConfig, 48);
    }
};

/// What a ring's back end has to know. Addresses are guest-physical; the eventfds stay the guest's.
pub const GuestVring = extern struct {
    desc_gpa: u64,
    avail_gpa: u64,
    used_gpa: u64,
    size: u32,
    /// For VHOST_USER_SET_VRING_BASE, to a back end that has no other: the first buffer that did not
    /// come back.
    base: u32,
    kick: i32,
    call: i32,

    comptime {
        assertShape(GuestVring, 40);
    }
};

/// When there is nothing to do: look again, let others run, or wait for a call.
pub const GuestWait = enum(u32) { poll = 0, yield = 1, sleep = 2 };

/// What a simulated guest does from start to stop. Frames are Ethernet, IPv4 and UDP.
pub const GuestTraffic = extern struct {
    /// As it is written: 52:54:00:00:00:01 is 0x525400000001.
    source_mac: u64,
    destination_mac: u64,
    /// Frames to send; 0: until stopped.
    count: u64,
    /// Frames a second; 0: as fast as it goes.
    rate: u64,
    /// 60 to 65535, also where it only receives, as what to expect. From `frame_bytes_min` on at random,
    /// unless that is 0.
    frame_bytes: u32,
    frame_bytes_min: u32,
    /// One frame in about so many carries a checksum over its whole payload; 0: none, 1: every one,
    /// and one without is then corrupted.
    check_every: u32,
    /// Flows, by UDP port, spread evenly over the queues; at least one each.
    flows: u32,
    /// Queue pairs in use.
    queues: u32,
    burst: u32,
    send: u32,
    receive: u32,
    /// Send back what is received, addresses exchanged. Excludes `send`.
    echo: u32,
    wait: GuestWait,
    /// CPU to run on, -1 for any.
    cpu: i32,
    /// Not 0: every frame is to be cut by others into datagrams of so much payload (USO), and comes to one that did not
    /// negotiate that in pieces, each of which is then a frame received. All are longer; excludes `echo`.
    gso_size: u32,
    /// Not 0: of what it sends, no more may be on its way to its partner in the crew (the first and the second are
    /// partners, the third and the fourth), which nobody else sends to.
    window: u32,
    padding: u32 = 0,

    comptime {
        assertShape(GuestTraffic, 88);
    }
};

/// Counters of a simulated guest since it was opened.
pub const GuestStats = extern struct {
    sent: u64,
    sent_bytes: u64,
    /// With a checksum.
    sent_checked: u64,
    /// Received to be sent back, when there was no room to.
    echo_dropped: u64,
    received: u64,
    received_bytes: u64,
    received_checked: u64,
    /// Sequence numbers that were left out, less those that came later.
    lost: u64,
    duplicated: u64,
    /// Came after a later one.
    reordered: u64,
    /// Checksum, length, header or sequence cannot be what was sent.
    corrupted: u64,
    /// Not from a simulated guest, or not for this one.
    foreign: u64,
    /// The virtio-net header is wrong, or the frame does not lie in its buffers as it says.
    bad_header: u64,
    /// Gratuitous ARP, as every guest sends it when it starts: received, and sent.
    announcements: u64,
    announced: u64,
    /// Frames that flows had sent before the first one that arrived here.
    unseen: u64,
    /// Streams of frames that were followed: flows, each counted anew when its sender is.
    streams: u64,
    rounds: u64,
    busy_rounds: u64,
    /// Of the CPU's constant-rate counter: in rounds with traffic, and since the start.
    busy_cycles: u64,
    cycles: u64,
    sleeps: u64,
    /// Rings that the device broke.
    broken: u64,
    /// 1 while the guest's thread runs, and while it has frames to send.
    running: u64,
    sending: u64,
    /// Times on the way of frames that carried their time of departure; there and back, where the other guest echoes.
    latency_count: u64,
    latency_sum_ns: u64,
    latency_last_ns: u64,
    latency_min_ns: u64,
    latency_max_ns: u64,
    /// Sixteen a doubling: bucket 16 * e + m holds times from (16 + m) / 16 * 2^e nanoseconds on.
    latency: [latency_buckets_max]u64,

    comptime {
        assertShape(GuestStats, (30 + latency_buckets_max) * 8);
    }
};

pub const latency_buckets_max = 640;

/// Counters of one ring of a simulated guest.
pub const GuestVringStats = extern struct {
    packets: u64,
    bytes: u64,
    bursts: u64,
    kicks: u64,
    kicks_suppressed: u64,
    calls: u64,
    /// Buffers that the device has.
    outstanding: u64,

    comptime {
        assertShape(GuestVringStats, 7 * 8);
    }
};

/// Which pages of a simulated guest are copied to its twin.
pub const GuestPages = enum(u32) {
    all = 0,
    /// Those that its own driver writes while it runs.
    own = 1,
    /// Those that are marked in the dirty log; the marks are taken away.
    logged = 2,
};

/// What lies at an address of a simulated guest's memory: a part of a ring, or a buffer of it.
pub const GuestArea = enum(u32) {
    none = 0,
    desc = 1,
    /// Packed: the driver's event.
    avail = 2,
    used = 3,
    /// Where the device says when it wants kicks.
    event = 4,
    /// Indirect descriptors.
    table = 5,
    buffer = 6,
};

/// Pages that were copied.
pub const GuestCopy = extern struct {
    pages: u64,
    /// Of these: they were the same before.
    same: u64,
    /// Marked, and none of the guest's memory.
    outside: u64,

    comptime {
        assertShape(GuestCopy, 24);
    }
};

/// A page that is not the same on both sides.
pub const GuestDifference = extern struct {
    /// Of its first byte that differs.
    gpa: u64,
    area: GuestArea,
    ring: u32,
    /// Of `buffer`: its number.
    buffer: u32,
    padding: u32 = 0,

    comptime {
        assertShape(GuestDifference, 24);
    }
};

/// Simulated guests that may be on their way at once.
pub const transfers_max = 64;

/// Links that may be open at once, and what a link's page has room for: memory regions, rings.
pub const links_max = 64;
pub const link_regions_max = 64;
pub const link_vrings_max = vrings_max;
/// The page's file, as large as the BAR that shows it: a power of two.
pub const link_bytes_max = 16384;

/// What one guest is told of another whose memory it has in BAR 2; regions and rings follow.
pub const LinkHead = extern struct {
    /// As negotiated by the other guest; 0: nothing is.
    features: u64,
    /// Even, and another one after each change.
    generation: u32,
    /// Whom to ring, by the doorbell register; 0: nobody.
    peer: u32,
    /// Longest frame to the other guest, without its Ethernet header; 0: no limit.
    mtu: u32,
    region_count: u32,
    vring_count: u32,
    padding: u32 = 0,

    comptime {
        assertShape(LinkHead, 32);
    }
};

/// One ring of it, as numbered on the wire. Addresses are guest-physical.
pub const LinkVring = extern struct {
    desc_gpa: u64,
    avail_gpa: u64,
    used_gpa: u64,
    size: u32,
    /// Where its driver started it.
    base: u32,
    /// Which start this is; 0: it is stopped.
    start: u32,
    enabled: u32,

    comptime {
        assertShape(LinkVring, 40);
    }
};

/// Where the reader of a link has left a ring.
pub const LinkStand = extern struct {
    /// Of which start of the ring it is; 0: of none.
    start: u32,
    /// As GET_VRING_BASE would answer it; all ones: the ring is in use.
    base: u32,

    comptime {
        assertShape(LinkStand, 8);
    }
};

/// Which file an fd is of, and how long that is.
pub const FileIdentity = extern struct {
    device: u64,
    inode: u64,
    size_bytes: u64,

    comptime {
        assertShape(FileIdentity, 24);
    }
};

/// Sizes and the absence of hidden padding are part of the boundary.
fn assertShape(comptime T: type, comptime size_bytes: usize) void {
    var sum: usize = 0;
    for (@typeInfo(T).@"struct".field_types) |Field| sum += @sizeOf(Field);
    if (@sizeOf(T) != size_bytes) @compileError(@typeName(T) ++ ": size changed");
    if (sum != size_bytes) @compileError(@typeName(T) ++ ": hidden padding");
}
