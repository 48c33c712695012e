//! A network namespace of our own, in which Linux cuts packets in software: what is written to a tap goes through a
//! bridge, and comes out at another tap or at the far end of a veth pair, which both take nothing but plain frames.
//! Needs neither root nor tools, only user namespaces and /dev/net/tun.
//!
//! Each way has a bridge of its own: one that floods a packet to two ports hands them the same headers, and cutting UFO
//! of IPv6, Linux 6.18 shifts them where they lie, so that the second port loses the packet.

const std = @import("std");
const abi = @import("abi.zig");
const interface = @import("interface.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const tap = @import("tap.zig");

extern "c" fn unshare(flags: c_int) c_int;
extern "c" fn strerror(errno: c_int) [*:0]const u8;

pub const Way = enum { tap, veth };

/// The largest that a tap takes, so that all frames pass that stay whole.
const mtu = 65521;
/// A tap drops what is beyond; from the start it has a thousand, for what Linux sends by itself, too.
const queue_packets = 4096;
const queue_packets_few = 500;
/// So many go through a veth pair at once: `net.core.netdev_max_backlog` is 1000, for all namespaces.
const backlog_packets = 500;
const socket_bytes_wanted = 16 << 20;
/// Of memory that a packet takes in a socket's buffer, beside twice its length.
const packet_cost_bytes = 1536;

const names = struct {
    const in: std.EnumArray(Way, Name) = .init(.{ .tap = nameOf("in-tap"), .veth = nameOf("in-veth") });
    const bridge: std.EnumArray(Way, Name) = .init(.{ .tap = nameOf("bridge-tap"), .veth = nameOf("bridge-veth") });
    const out = nameOf("out");
    const near = nameOf("near");
    const far = nameOf("far");
};

const Name = [16]u8;

const request = struct {
    const set_queue_packets = 0x8943;
    const set_mtu = 0x8922;
    const ethtool = 0x8946;
    const add_bridge = 0x89a0;
    const add_bridge_port = 0x89a2;
    const set_offload = 0x400454d0;
};

const clone_user = 0x1000_0000;
const clone_network = 0x4000_0000;

const packet_level = 263;
const packet_auxdata = 8;
const packet_ignore_outgoing = 23;

const offload_csum = 1;
/// Links go up in the background.
const start_ms_max = 30_000;
const tag_bytes = 4;
const header_bytes = @sizeOf(spec.NetHeader);

/// One of the pieces, in the buffer that was given.
pub const Arrival = struct {
    /// Of what came out of the veth pair there is none.
    header: ?spec.NetHeader,
    bytes: []u8,
};

pub const Bench = struct {
    in: std.EnumArray(Way, tap.Tap),
    out: tap.Tap,
    far: i32,
    /// What the socket and the tap hold.
    far_bytes: u32,
    out_packets: u32,

    /// At a failure, `step` is what could not be had.
    pub fn open(bench: *Bench, step: *[]const u8) sys.Error!void {
        step.* = "a network namespace (CAP_SYS_ADMIN or unprivileged user namespaces)";
        try enterNamespace();
        step.* = "a network namespace of bridges without netfilter (/proc/sys/net/bridge)";
        try silence();
        step.* = "a tap interface (/dev/net/tun)";
        for (std.enums.values(Way)) |way| try openTap(bench.in.getPtr(way), names.in.get(way));
        try openTap(&bench.out, names.out);
        bench.out_packets = queue_packets;
        // For CAP_NET_ADMIN in the first namespace alone.
        setNumber(names.out, request.set_queue_packets, queue_packets) catch {
            bench.out_packets = queue_packets_few;
        };
        try bench.setPartial(false);
        step.* = "a veth pair";
        try addVethPair();
        for ([_]Name{ names.near, names.far }) |name| {
            try setNumber(name, request.set_mtu, mtu);
            step.* = "a veth pair without offloads";
            try refuseOffloads(name);
            try interface.setUp(name, true);
        }
        step.* = "a bridge";
        try addBridge(.tap, names.out);
        try addBridge(.veth, names.near);
        step.* = "an AF_PACKET socket";
        try bench.openSocket();
        step.* = "a bridge that passes frames";
        for (std.enums.values(Way)) |way| try bench.waitFor(way);
    }

    fn openTap(opened: *tap.Tap, name: Name) sys.Error!void {
        var config = std.mem.zeroes(abi.Uplink);
        config.name = name;
        config.queue_pairs = 1;
        config.mtu = mtu;
        try opened.open(&config);
    }

    /// The far end of the pair; tags are told beside the packet.
    fn openSocket(bench: *Bench) sys.Error!void {
        bench.far = try sys.packetSocket();
        const one: i32 = 1;
        try sys.setPacketOption(bench.far, packet_ignore_outgoing, std.mem.asBytes(&one));
        try sys.setPacketOption(bench.far, packet_auxdata, std.mem.asBytes(&one));
        const wanted: i32 = socket_bytes_wanted;
        // Beyond what anybody may have: for CAP_NET_ADMIN in the first namespace alone.
        for ([_]u32{ std.c.SO.RCVBUFFORCE, std.c.SO.RCVBUF }) |option| {
            const set = std.c.setsockopt(bench.far, std.c.SOL.SOCKET, option, &wanted, @sizeOf(i32));
            if (set == 0) break;
        }
        var len: std.c.socklen_t = @sizeOf(u32);
        _ = try check(std.c.getsockopt(bench.far, std.c.SOL.SOCKET, std.c.SO.RCVBUF, &bench.far_bytes, &len));
        try sys.bindPacket(bench.far, try interface.indexOf(names.far));
    }

    /// Until a first frame passes. Those that follow it are nobody's.
    fn waitFor(bench: *Bench, way: Way) sys.Error!void {
        const header = std.mem.zeroes(spec.NetHeader);
        const probe = [_]u8{ 2, 0, 0, 0, 0, 0, 2, 0xee, 0, 0, 0, 0, 0x88, 0xb5 } ++ @as([46]u8, @splat(0));
        for (0..start_ms_max) |_| {
            try bench.write(way, &header, &probe);
            var buffer: [256]u8 = undefined;
            while (bench.read(way, &buffer)) |arrival| if (std.mem.eql(u8, arrival.bytes, &probe)) return;
            sys.sleep(1_000_000);
        }
        return sys.fail(sys.errno_again);
    }

    /// Whether the second tap finishes checksums, so that Linux leaves them to it.
    pub fn setPartial(bench: *Bench, partial: bool) sys.Error!void {
        try sys.ioctl(bench.out.fds[0], request.set_offload, if (partial) offload_csum else 0);
    }

    /// When this returns, its pieces are at the way's end, or that of the pair perhaps a bit later.
    pub fn write(bench: *Bench, way: Way, header: *const spec.NetHeader, bytes: []const u8) sys.Error!void {
        const head = std.mem.asBytes(header);
        return sys.writePacket(bench.in.get(way).fds[0], &.{
            .{ .base = head.ptr, .len = head.len },
            .{ .base = bytes.ptr, .len = bytes.len },
        });
    }

    /// Whether none of so many pieces is lost on this way.
    pub fn holds(bench: *const Bench, way: Way, pieces: u32, piece_bytes: u32) bool {
        const room = bench.far_bytes / (packet_cost_bytes + 2 * piece_bytes);
        return switch (way) {
            .tap => pieces <= bench.out_packets,
            .veth => piece_bytes <= mtu and pieces <= @min(backlog_packets, room),
        };
    }

    /// The next frame, whoever sent it; null: there is none.
    pub fn read(bench: *Bench, way: Way, buffer: []u8) ?Arrival {
        return switch (way) {
            .tap => bench.readTap(buffer),
            .veth => bench.readSocket(buffer),
        };
    }

    fn readTap(bench: *Bench, buffer: []u8) ?Arrival {
        const len = sys.readFile(bench.out.fds[0], buffer) catch return null;
        if (len < header_bytes) return null;
        const header = std.mem.bytesToValue(spec.NetHeader, buffer[0..header_bytes]);
        return .{ .header = header, .bytes = buffer[header_bytes..len] };
    }

    /// struct tpacket_auxdata.
    const Beside = extern struct { status: u32, len: u32, captured: u32, mac: u16, net: u16, tag: u16, tag_type: u16 };
    const status_tag = 0x10;

    const Control = extern struct { head: std.c.cmsghdr, beside: Beside, room: [64]u8 };

    /// Linux takes the outer tag out: it is put back.
    fn readSocket(bench: *Bench, buffer: []u8) ?Arrival {
        const room = buffer[tag_bytes..];
        var vector: std.c.iovec = .{ .base = room.ptr, .len = room.len };
        var control: Control = undefined;
        var message = std.mem.zeroes(std.c.msghdr);
        message.iov = @ptrCast(&vector);
        message.iovlen = 1;
        message.control = &control;
        message.controllen = @sizeOf(Control);
        const result = std.c.recvmsg(bench.far, &message, 0);
        if (result <= 0) return null;
        const bytes = room[0..@intCast(result)];
        if (message.controllen < @sizeOf(std.c.cmsghdr) + @sizeOf(Beside)) return null;
        if (control.beside.status & status_tag == 0) return .{ .header = null, .bytes = bytes };
        std.mem.copyForwards(u8, buffer[0..12], bytes[0..12]);
        std.mem.writeInt(u16, buffer[12..14], control.beside.tag_type, .big);
        std.mem.writeInt(u16, buffer[14..16], control.beside.tag, .big);
        return .{ .header = null, .bytes = buffer[0 .. bytes.len + tag_bytes] };
    }
};

/// Why the last call failed.
pub fn lastReason() []const u8 {
    return std.mem.span(strerror(sys.lastErrno()));
}

/// Root may do without a user namespace, in which its sockets hold less.
fn enterNamespace() sys.Error!void {
    if (unshare(clone_network) == 0) return;
    const user = std.c.geteuid();
    const group = std.c.getegid();
    _ = try check(unshare(clone_user | clone_network));
    var buffer: [32]u8 = undefined;
    try writeFile("/proc/self/setgroups", "deny");
    try writeFile("/proc/self/uid_map", std.fmt.bufPrint(&buffer, "0 {d} 1", .{user}) catch unreachable);
    try writeFile("/proc/self/gid_map", std.fmt.bufPrint(&buffer, "0 {d} 1", .{group}) catch unreachable);
}

/// What Linux would send by itself is less then, and it does not look into what is bridged. The files show the
/// namespace of who opens them.
fn silence() sys.Error!void {
    for ([_][*:0]const u8{
        "/proc/sys/net/ipv6/conf/all/disable_ipv6",
        "/proc/sys/net/ipv6/conf/default/disable_ipv6",
    }) |path| writeFile(path, "1") catch {};
    for ([_][*:0]const u8{
        "/proc/sys/net/bridge/bridge-nf-call-iptables",
        "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
        "/proc/sys/net/bridge/bridge-nf-call-arptables",
    }) |path| writeFile(path, "0") catch |reason| {
        if (sys.lastErrno() != sys.errno_absent) return reason;
    };
}

fn writeFile(path: [*:0]const u8, text: []const u8) sys.Error!void {
    const fd = try sys.openDevice(path);
    defer sys.close(fd);
    return sys.writePacket(fd, &.{.{ .base = text.ptr, .len = text.len }});
}

fn ask(number: u32, argument: usize) sys.Error!void {
    const fd = try sys.interfaceSocket();
    defer sys.close(fd);
    return sys.ioctl(fd, number, argument);
}

fn setNumber(name: Name, number: u32, value: i32) sys.Error!void {
    var asked: interface.Request = .of(name);
    asked.value.number = value;
    return ask(number, @intFromPtr(&asked));
}

fn addBridge(way: Way, out: Name) sys.Error!void {
    const name = names.bridge.get(way);
    try ask(request.add_bridge, @intFromPtr(&name));
    for ([_]Name{ names.in.get(way), out }) |port| {
        try setNumber(name, request.add_bridge_port, try interface.indexOf(port));
    }
    return interface.setUp(name, true);
}

/// Checksums, in both directions, and frames in several pieces of memory; without these there is no segmentation.
fn refuseOffloads(name: Name) sys.Error!void {
    const Value = extern struct { command: u32, number: u32 };
    const set_receive_csum = 0x15;
    const set_send_csum = 0x17;
    const set_scatter_gather = 0x19;
    const set_gso = 0x24;
    const set_gro = 0x2c;
    for ([_]u32{ set_gro, set_gso, set_scatter_gather, set_send_csum, set_receive_csum }) |command| {
        const value: Value = .{ .command = command, .number = 0 };
        var asked: interface.Request = .of(name);
        std.mem.writeInt(usize, asked.value.bytes[0..@sizeOf(usize)], @intFromPtr(&value), .native);
        try ask(request.ethtool, @intFromPtr(&asked));
    }
}

/// Of rtnetlink(7), which alone makes veth pairs: a message of attributes, some of which have others inside.
const Message = struct {
    bytes: [256]u8 align(4),
    len: usize,

    const kind_new_link = 16;
    const kind_error = 2;
    /// Request, acknowledge, create, and only if it is not there.
    const flags = 0x01 | 0x04 | 0x400 | 0x200;
    const header_len = 16;
    /// struct ifinfomsg, all of it zero.
    const interface_len = 16;

    fn init(message: *Message) void {
        message.bytes = @splat(0);
        message.len = header_len + interface_len;
        std.mem.writeInt(u16, message.bytes[4..6], kind_new_link, .native);
        std.mem.writeInt(u16, message.bytes[6..8], flags, .native);
    }

    fn begin(message: *Message, kind: u16) usize {
        const start = message.len;
        std.mem.writeInt(u16, message.bytes[start + 2 ..][0..2], kind, .native);
        message.len += 4;
        return start;
    }

    fn end(message: *Message, start: usize) void {
        std.mem.writeInt(u16, message.bytes[start..][0..2], @intCast(message.len - start), .native);
        message.len = std.mem.alignForward(usize, message.len, 4);
    }

    fn attribute(message: *Message, kind: u16, value: []const u8) void {
        const start = message.begin(kind);
        @memcpy(message.bytes[message.len..][0..value.len], value);
        message.len += value.len;
        message.end(start);
    }

    fn send(message: *Message) sys.Error!void {
        std.mem.writeInt(u32, message.bytes[0..4], @intCast(message.len), .native);
        const netlink = 16;
        const fd = try check(std.c.socket(netlink, std.c.SOCK.RAW | std.c.SOCK.CLOEXEC, 0));
        defer sys.close(fd);
        _ = try check(std.c.send(fd, &message.bytes, message.len, 0));
        var answer: [1024]u8 align(4) = undefined;
        const len: usize = @intCast(try check(std.c.recv(fd, &answer, answer.len, 0)));
        const kind = std.mem.readInt(u16, answer[4..6], .native);
        if (len < header_len + 4 or kind != kind_error) return sys.fail(sys.errno_invalid);
        const result = std.mem.readInt(i32, answer[header_len..][0..4], .native);
        if (result != 0) return sys.fail(@intCast(-result));
    }
};

fn addVethPair() sys.Error!void {
    const attribute_name = 3;
    const attribute_link = 18;
    const link_kind = 1;
    const link_data = 2;
    const veth_peer = 1;
    var message: Message = undefined;
    message.init();
    message.attribute(attribute_name, std.mem.sliceTo(&names.near, 0));
    const link = message.begin(attribute_link);
    message.attribute(link_kind, "veth");
    const data = message.begin(link_data);
    const peer = message.begin(veth_peer);
    message.len += Message.interface_len;
    message.attribute(attribute_name, std.mem.sliceTo(&names.far, 0));
    message.end(peer);
    message.end(data);
    message.end(link);
    return message.send();
}

fn nameOf(comptime text: []const u8) Name {
    var name: Name = @splat(0);
    @memcpy(name[0..text.len], text);
    return name;
}

/// Of a call through libc.
fn check(result: anytype) sys.Error!@TypeOf(result) {
    return if (result < 0) sys.fail(@intCast(std.c._errno().*)) else result;
}

test "attributes contain one another, and begin at words" {
    var message: Message = undefined;
    message.init();
    const outer = message.begin(2);
    message.attribute(3, "abcde");
    message.end(outer);
    const expected = [_]u8{ 16, 0, 2, 0, 9, 0, 3, 0, 'a', 'b', 'c', 'd', 'e', 0, 0, 0 };
    try std.testing.expectEqualSlices(u8, &expected, message.bytes[32..message.len]);
}
