//! The frames of simulated guests: Ethernet, IPv4 and UDP that any tool reads, and in the payload a
//! sequence number, and, where its flags say so, a time of departure and a checksum over the rest.
//!
//! All that is looked at in every frame lies in its first 50 bytes: with a virtio-net header before
//! it, in one line of memory.

const std = @import("std");
const checksum_file = @import("checksum.zig");

pub const bytes_min = 60;
pub const bytes_max = 65535;
/// Ethernet, IPv4 and UDP headers.
pub const header_bytes = 42;
pub const transport_at = 34;
/// Of UDP's checksum, from its header on.
pub const checksum_offset = 6;

pub const flows_max = 256;

const sequence_at = 42;
const time_at = 50;
const checksum_at = 56;
const body_at = 60;

/// In the sequence number: the frame carries its time of departure; a checksum; the number itself.
pub const timed: u64 = 1 << 63;
pub const checked: u64 = 1 << 62;
pub const number_mask: u64 = checked - 1;

const ethertype_ipv4 = 0x0800;
const ethertype_arp = 0x0806;
const protocol_udp = 17;
/// UDP ports: the source is this and the flow, the destination names these frames.
const flow_port = 0xc000;
const magic_port = 0x5648;

pub const broadcast: u64 = 0xffff_ffff_ffff;

/// Who sends to whom. Addresses are numbers as they are written, first byte first.
pub const Route = struct {
    source: u64,
    destination: u64,
    /// Tells one sender's run from the next: the IPv4 identification.
    stream: u16,
};

/// Where frames are to be cut, these bits of the identification number the pieces.
pub const piece_mask: u16 = 0x7ff;

/// A frame of these simulated guests, by its first 50 bytes.
pub const Parsed = struct {
    source: u64,
    destination: u64,
    stream: u16,
    flow: u16,
    /// Length of the frame, by its IPv4 header.
    len: u32,
    /// With flags.
    sequence: u64,
};

/// Lays out everything before the payload.
pub fn writeHeader(frame: [*]u8, route: Route, flow: u16, len: u32) void {
    std.debug.assert(len >= bytes_min and len <= bytes_max);
    writeMac(frame, route.destination);
    writeMac(frame + 6, route.source);
    writeBig(u16, frame + 12, ethertype_ipv4);
    const network = frame + 14;
    network[0..12].* = .{ 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol_udp, 0, 0 };
    writeBig(u16, network + 2, @intCast(len - 14));
    writeBig(u16, network + 4, route.stream);
    writeBig(u32, network + 12, addressOf(route.source));
    writeBig(u32, network + 16, addressOf(route.destination));
    writeBig(u16, network + 10, ~sumOf(network));
    writeBig(u16, frame + 34, flow_port + flow);
    writeBig(u16, frame + 36, magic_port);
    writeBig(u16, frame + 38, @intCast(len - 34));
    writeBig(u16, frame + 40, 0);
}

/// In the place of UDP's checksum: the sum of the pseudo-header, which whoever finishes it starts with.
pub fn writePartialSum(frame: [*]u8) void {
    writeBig(u16, frame + transport_at + checksum_offset, partialSumOf(frame));
}

fn partialSumOf(frame: [*]const u8) u16 {
    var sum: u32 = protocol_udp + @as(u32, readBig(u16, frame + transport_at + 4));
    for (0..4) |i| sum += readBig(u16, frame + 26 + 2 * i);
    return fold(sum);
}

pub inline fn writeSequence(frame: [*]u8, sequence: u64) void {
    @as(*align(1) u64, @ptrCast(frame + sequence_at)).* = sequence;
}

pub fn addFlag(frame: [*]u8, flag: u64) void {
    writeSequence(frame, sequenceOf(frame) | flag);
}

/// The header's flow is in its UDP port alone, and in no checksum of the header.
pub inline fn writeFlow(frame: [*]u8, flow: u16) void {
    @as(*align(1) u16, @ptrCast(frame + 34)).* = @byteSwap(flow_port + flow);
}

/// To be called before `seal`.
pub fn writeTime(frame: [*]u8, now_ns: u64) void {
    std.mem.writeInt(u48, frame[time_at..][0..6], @truncate(now_ns), .little);
}

/// Nanoseconds since a timed frame left; on one machine.
pub fn ageOf(frame: [*]const u8, now_ns: u64) u64 {
    return @as(u48, @truncate(now_ns)) -% std.mem.readInt(u48, frame[time_at..][0..6], .little);
}

/// Fills a frame, whose header and sequence are written, with what only this frame holds, and writes
/// the checksum of it all.
pub fn seal(frame: []u8) void {
    fill(frame[body_at..], sequenceOf(frame.ptr));
    std.mem.writeInt(u32, frame[checksum_at..][0..4], checksum(frame), .little);
}

/// What a frame that is not sealed holds behind its sequence number.
pub fn fillBody(frame: []u8) void {
    fill(frame[body_at..], 0);
}

/// Whether a sealed frame is as it was sent: payload, and all of the header but the MAC addresses. `partial`: it has
/// the sum of the pseudo-header, else no checksum.
pub fn isIntact(frame: []const u8, partial: bool) bool {
    if (std.mem.readInt(u32, frame[checksum_at..][0..4], .little) != checksum(frame)) return false;
    if (!isHeaderIntact(frame.ptr)) return false;
    if (readBig(u16, frame.ptr + 38) != frame.len - transport_at) return false;
    return readBig(u16, frame.ptr + 40) == if (partial) partialSumOf(frame.ptr) else 0;
}

/// Whether a piece of a frame is good IPv4 and UDP. `partial`: its checksum is not finished.
pub fn isPieceIntact(frame: []const u8, partial: bool) bool {
    if (!isHeaderIntact(frame.ptr) or readBig(u16, frame.ptr + 16) != frame.len - 14) return false;
    if (readBig(u16, frame.ptr + 38) != frame.len - transport_at) return false;
    const field = readBig(u16, frame.ptr + 40);
    if (partial) return field == partialSumOf(frame.ptr);
    var sum: checksum_file.Sum = .{};
    sum.add(&.{ 0, protocol_udp });
    sum.add(frame[38..40]);
    sum.add(frame[26..34]);
    sum.add(frame[transport_at..]);
    // 0 stands for none (RFC 768).
    return field != 0 and sum.finish() == 0;
}

pub fn isHeaderIntact(frame: [*]const u8) bool {
    return sumOf(frame + 14) == 0xffff;
}

/// Null: not a frame of a simulated guest.
pub fn parse(frame: []const u8) ?Parsed {
    if (frame.len < bytes_min or readBig(u16, frame.ptr + 12) != ethertype_ipv4) return null;
    if (frame[14] != 0x45 or frame[23] != protocol_udp or readBig(u16, frame.ptr + 36) != magic_port) return null;
    const flow = readBig(u16, frame.ptr + 34) -% flow_port;
    if (flow >= flows_max) return null;
    return .{
        .source = readMac(frame.ptr + 6),
        .destination = readMac(frame.ptr),
        .stream = readBig(u16, frame.ptr + 18),
        .flow = flow,
        .len = @as(u32, readBig(u16, frame.ptr + 16)) + 14,
        .sequence = sequenceOf(frame.ptr),
    };
}

pub inline fn sequenceOf(frame: [*]const u8) u64 {
    return @as(*align(1) const u64, @ptrCast(frame + sequence_at)).*;
}

/// The flow, by the ports alone; `flows_max` and more for other frames.
pub inline fn flowOf(frame: [*]const u8) u32 {
    const ports = @byteSwap(@as(*align(1) const u32, @ptrCast(frame + 34)).*);
    return std.math.rotl(u32, ports -% (flow_port << 16 | magic_port), 16);
}

/// Sends a frame back where it came from: MAC and IPv4 addresses change places; no checksum minds.
pub fn turnRound(frame: []u8) void {
    const macs = frame[0..12].*;
    frame[0..6].* = macs[6..12].*;
    frame[6..12].* = macs[0..6].*;
    const addresses = frame[26..34].*;
    frame[26..30].* = addresses[4..8].*;
    frame[30..34].* = addresses[0..4].*;
}

/// A gratuitous ARP request, as a guest's kernel sends it when an interface comes up.
pub fn writeAnnouncement(frame: *[bytes_min]u8, source: u64) void {
    frame.* = @splat(0);
    writeMac(frame, broadcast);
    writeMac(frame[6..], source);
    writeBig(u16, frame[12..], ethertype_arp);
    frame[14..22].* = .{ 0, 1, 8, 0, 6, 4, 0, 1 };
    writeMac(frame[22..], source);
    writeBig(u32, frame[28..], addressOf(source));
    writeBig(u32, frame[38..], addressOf(source));
}

pub fn isAnnouncement(frame: []const u8) bool {
    if (frame.len < 42 or readBig(u16, frame.ptr + 12) != ethertype_arp) return false;
    return std.mem.eql(u8, frame[28..32], frame[38..42]);
}

/// 10.0.0.0/8 by the last three bytes of the MAC address.
fn addressOf(mac: u64) u32 {
    return 10 << 24 | @as(u32, @truncate(mac & 0xff_ffff));
}

/// One's complement sum of an IPv4 header without options; 0xffff when its checksum is right.
fn sumOf(network: [*]const u8) u16 {
    var sum: u32 = 0;
    for (0..10) |i| sum += readBig(u16, network + 2 * i);
    return fold(sum);
}

fn fold(sum: u32) u16 {
    const once = (sum & 0xffff) + (sum >> 16);
    return @truncate((once & 0xffff) + (once >> 16));
}

fn writeMac(target: [*]u8, mac: u64) void {
    std.mem.writeInt(u48, target[0..6], @intCast(mac), .big);
}

fn readMac(source: [*]const u8) u64 {
    return std.mem.readInt(u48, source[0..6], .big);
}

fn writeBig(comptime T: type, target: [*]u8, value: T) void {
    std.mem.writeInt(T, target[0..@sizeOf(T)], value, .big);
}

fn readBig(comptime T: type, source: [*]const u8) T {
    return std.mem.readInt(T, source[0..@sizeOf(T)], .big);
}

const lanes = 16;
const Lanes = @Vector(lanes, u32);
const lanes_bytes = 4 * lanes;
const odd: Lanes = @splat(0x9e37_79b1);

/// Words that no other sequence number's frame has in the same place.
fn fill(body: []u8, sequence: u64) void {
    var words: Lanes = @splat(@truncate((sequence +% 1) *% 0x9e37_79b9_7f4a_7c15 >> 32));
    words +%= std.simd.iota(u32, lanes) *% odd;
    const step: Lanes = odd *% @as(Lanes, @splat(lanes));
    var at: usize = 0;
    while (at + lanes_bytes <= body.len) : (at += lanes_bytes) {
        @as(*align(1) Lanes, @ptrCast(body[at..])).* = words;
        words +%= step;
    }
    const tail = std.mem.asBytes(&words);
    @memcpy(body[at..], tail[0 .. body.len - at]);
}

/// Over length, flow, sequence, time and body. A change of one word always shows: each step maps a lane's
/// states one to one.
fn checksum(frame: []const u8) u32 {
    const body = frame[body_at..];
    var sums: Lanes = odd;
    var at: usize = 0;
    while (at + lanes_bytes <= body.len) : (at += lanes_bytes) {
        sums = stir(sums, @as(*align(1) const Lanes, @ptrCast(body[at..])).*);
    }
    var tail: Lanes = @splat(0);
    @memcpy(std.mem.asBytes(&tail)[0 .. body.len - at], body[at..]);
    sums = stir(sums, tail);
    var sum = mix(frame.len, sequenceOf(frame.ptr));
    sum = mix(sum, flowOf(frame.ptr));
    sum = mix(sum, std.mem.readInt(u48, frame[time_at..][0..6], .little));
    const words: [lanes]u32 = sums;
    for (words) |word| sum = mix(sum, word);
    return @truncate(sum >> 32);
}

inline fn stir(sums: Lanes, words: Lanes) Lanes {
    const mixed = (sums ^ words) *% odd;
    return mixed ^ mixed >> @splat(15);
}

fn mix(sum: u64, value: u64) u64 {
    const mixed = (sum ^ value) *% 0x9e37_79b9_7f4a_7c15;
    return mixed ^ mixed >> 29;
}

const test_route: Route = .{ .source = 0x525400000001, .destination = 0x525400000002, .stream = 7 };

fn testFrame(frame: []u8, sequence: u64) void {
    writeHeader(frame.ptr, test_route, 5, @intCast(frame.len));
    writeSequence(frame.ptr, sequence);
    writeTime(frame.ptr, 1000);
    seal(frame);
}

test "a frame says who sent it, and is good IPv4 and UDP" {
    var frame: [100]u8 = undefined;
    testFrame(&frame, checked | 9);
    const parsed = parse(&frame).?;
    try std.testing.expectEqual(Parsed{
        .source = 0x525400000001,
        .destination = 0x525400000002,
        .stream = 7,
        .flow = 5,
        .len = 100,
        .sequence = checked | 9,
    }, parsed);
    try std.testing.expectEqual(5, flowOf(&frame));
    try std.testing.expectEqual(500, ageOf(&frame, 1500));
    const header = [_]u8{ 0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 86, 0, 7, 0x40, 0, 64, 17 };
    try std.testing.expectEqualSlices(u8, &header, frame[0..24]);
    // 4500 + 0056 + 0007 + 4000 + 4011 + 0a00 + 0001 + 0a00 + 0002 = d971, by hand.
    try std.testing.expectEqual(0xffff - 0xd971, readBig(u16, frame[24..]));
    const rest = [_]u8{ 10, 0, 0, 1, 10, 0, 0, 2, 0xc0, 5, 0x56, 0x48, 0, 66, 0, 0 };
    try std.testing.expectEqualSlices(u8, &rest, frame[26..42]);
    turnRound(&frame);
    try std.testing.expect(isIntact(&frame, false));
    try std.testing.expectEqual(0x525400000002, parse(&frame).?.source);
}

test "any changed byte of a sealed frame shows, and any change of its length" {
    for ([_]usize{ 60, 61, 64, 123, 124, 125, 1514, 9014 }) |len| {
        var buffer: [9100]u8 = undefined;
        const frame = buffer[0..len];
        testFrame(frame, checked | 3);
        try std.testing.expect(isIntact(frame, false));
        for (14..len) |at| {
            if (at > 200 and at % 37 != 0) continue;
            for ([_]u8{ 1, 0x80, 0xff }) |change| {
                frame[at] ^= change;
                const parsed = parse(frame);
                try std.testing.expect(parsed == null or parsed.?.len != len or !isIntact(frame, false));
                frame[at] ^= change;
            }
        }
        if (len > bytes_min) try std.testing.expect(!isIntact(frame[0 .. len - 1], false));
        buffer[len] = 0;
        try std.testing.expect(!isIntact(buffer[0 .. len + 1], false));
    }
}

test "a body of another frame shows" {
    var first: [1500]u8 = undefined;
    var second: [1500]u8 = undefined;
    testFrame(&first, checked | 3);
    testFrame(&second, checked | 4);
    @memcpy(first[64..128], second[64..128]);
    try std.testing.expect(!isIntact(&first, false));
}

test "an announcement is gratuitous ARP and nothing else is" {
    var frame: [60]u8 = undefined;
    writeAnnouncement(&frame, 0x525400000001);
    try std.testing.expect(isAnnouncement(&frame));
    try std.testing.expect(parse(&frame) == null);
    testFrame(&frame, 1);
    try std.testing.expect(!isAnnouncement(&frame));
}
