//! Frames between rings: taken from a guest by reference, copied once into another guest.
//!
//! Written once, compiled for every ring format and, towards a guest, with and without mergeable
//! buffers. The common shape (one direct descriptor in one region) never leaves the short path; all
//! others are legal too, and go through `chain.zig`.

const builtin = @import("builtin");
const std = @import("std");
const abi = @import("abi.zig");
const announcement_file = @import("announcement.zig");
const chain = @import("chain.zig");
const copy_file = @import("copy.zig");
const DirtyLog = @import("dirty_log.zig").DirtyLog;
const frame_file = @import("frame.zig");
const net_header = @import("net_header.zig");
const segment_file = @import("segment.zig");
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

const Targets = @import("targets.zig").Targets;
const NetHeader = spec.NetHeader;
pub const Frame = frame_file.Frame;
pub const Segment = chain.Segment;
const ethernet_bytes = frame_file.ethernet_bytes;
const copy = copy_file.copy;
const Used = vring_entry.Used;
const Vring = @import("vring.zig").Vring;

/// Frames in one burst; also bits in a `Mask`.
pub const frames_max = abi.packets_max;
pub const Mask = u64;

/// Room for a private copy of all headers: Ethernet, two tags, IPv6, and TCP with all options.
pub const front_bytes_max = 128;
const full_header_bytes = @sizeOf(NetHeader);
const chain_bytes_max = full_header_bytes + net_header.frame_bytes_max;

/// Descriptors looked at in chains, in one burst: a guest of long chains waits for its next turn. The
/// last chain may go beyond.
const collect_steps_max = 8192;

/// The same for one run of frames into a guest; what is then left finds no buffer. A frame over
/// buffers of one byte each still fits.
const deliver_steps_max = 2 * chain_bytes_max;

/// A bit for each of so many frames.
pub fn firstFrames(count: u32) Mask {
    return if (count == frames_max) ~@as(Mask, 0) else (@as(Mask, 1) << @intCast(count)) - 1;
}

/// A chain taken for a frame that may still turn out not to fit.
const Gathered = struct { id: u16, count: u16, capacity: u32 };

/// What one worker has in hand, and the space to take chains apart in.
pub const Burst = struct {
    frames: [frames_max]Frame,
    /// Of those frames that are to go out changed.
    fronts: [frames_max][front_bytes_max]u8,
    /// One that we send in a guest's name.
    announcement: [announcement_file.frame_bytes]u8,
    /// Front and rest of those that were one segment.
    halves: [frames_max][2]Segment,
    count: u32,
    /// All frames lie in one piece behind the header that their sender wrote; also, none asks for anything in its
    /// header; also, all go from one address to one.
    short: bool,
    plain: bool,
    alike: bool,
    /// Of short frames together, and of the longest of them.
    bytes: u64,
    longest: u32,
    /// What must go back to the sender, in order; frames and chains that were none.
    heads: [vring_entry.heads_max]vring_entry.Head,
    head_count: u32,
    source: chain.Pool,
    sink: chain.Pool,
    gathered: []Gathered,
    /// A frame that its receiver does not take as it is, and what is made of it.
    cut: segment_file.Cut,
    pieces: segment_file.Pieces,
    /// Descriptors looked at, towards the limits above.
    steps: u32,
    /// Of the last run of frames into a guest, the last ones, which found no buffer.
    left: Mask,

    /// Room for one more chain, whatever was collected before, each of its bytes a segment; and before
    /// each chain's segments for the one that `front` puts there.
    const pool_segments = 2 * chain_bytes_max + 2 * frames_max;

    pub fn create() error{OutOfMemory}!*Burst {
        const allocator = std.heap.page_allocator;
        const burst = try allocator.create(Burst);
        errdefer allocator.destroy(burst);
        burst.steps = 0;
        burst.left = 0;
        burst.source = .{ .items = try allocator.alloc(Segment, pool_segments) };
        errdefer allocator.free(burst.source.items);
        burst.begin();
        burst.sink = .{ .items = try allocator.alloc(Segment, pool_segments) };
        errdefer allocator.free(burst.sink.items);
        burst.gathered = try allocator.alloc(Gathered, abi.vring_size_max);
        errdefer allocator.free(burst.gathered);
        burst.pieces.segments = .{ .items = try allocator.alloc(Segment, segment_file.Pieces.segments_max) };
        return burst;
    }

    pub fn destroy(burst: *Burst) void {
        const allocator = std.heap.page_allocator;
        allocator.free(burst.pieces.segments.items);
        allocator.free(burst.gathered);
        allocator.free(burst.sink.items);
        allocator.free(burst.source.items);
        allocator.destroy(burst);
    }

    /// Empties it, for frames of any kind.
    pub fn begin(burst: *Burst) void {
        burst.count = 0;
        burst.head_count = 0;
        burst.source.used = 0;
        burst.short = false;
        burst.plain = false;
        burst.alike = false;
    }

    /// Takes what the guest sent, up to `frames_max` chains. The ring may break on the way; what was
    /// taken before that is still good.
    pub fn collect(burst: *Burst, vring: *Vring) void {
        burst.collectUpTo(vring, false, frames_max);
    }

    /// The same, up to `chains_max` chains, no more than `frames_max`.
    pub fn collectSome(burst: *Burst, vring: *Vring, chains_max: u32) void {
        burst.collectUpTo(vring, true, chains_max);
    }

    /// A worker's loop has a constant for its end.
    inline fn collectUpTo(burst: *Burst, vring: *Vring, comptime some: bool, chains_max: u32) void {
        burst.begin();
        burst.steps = 0;
        if (vring.announces()) return burst.announce(vring);
        switch (vring.format) {
            .split => burst.collectFrom(vring, &vring.ring.split, some, chains_max),
            .packed_ring => burst.collectFrom(vring, &vring.ring.packed_ring, some, chains_max),
        }
        vring.noteTaken(burst.heads[0..burst.head_count]);
    }

    fn collectFrom(burst: *Burst, vring: *Vring, ring: anytype, comptime some: bool, chains_max: u32) void {
        @setRuntimeSafety(false);
        const end = if (some) chains_max else frames_max;
        const short = vring.header_bytes == full_header_bytes;
        burst.short = short;
        burst.plain = short;
        burst.alike = short;
        burst.bytes = 0;
        burst.longest = 0;
        while (burst.head_count < end) {
            if (burst.short and burst.collectRun(vring, ring, end)) continue;
            const entry = (ring.next() catch |reason| return vring.breakBy(reason)) orelse return;
            burst.short = false;
            burst.plain = false;
            burst.alike = false;
            const single = entry.flags & vring_entry.shape_flags == 0;
            if (short and single and entry.len -% (full_header_bytes + ethernet_bytes) <=
                net_header.frame_bytes_max - ethernet_bytes)
            {
                if (vring.memory.translate(entry.addr, entry.len, &vring.hint)) |base| {
                    ring.take(1);
                    burst.returnLater(entry.id, 1);
                    burst.addShort(vring, base, entry.len);
                    continue;
                }
            }
            burst.addChain(vring, ring, entry) catch |reason| return vring.breakBy(reason);
            if (burst.steps >= collect_steps_max or burst.source.left() < chain_bytes_max + 2 * frames_max) return;
        }
    }

    /// Takes short frames until something else comes. False: nothing but that.
    inline fn collectRun(burst: *Burst, vring: *Vring, ring: anytype, end: u32) bool {
        @setRuntimeSafety(false);
        const window = vring.memory.window(vring.hint);
        var run = ring.beginRun();
        const begun = burst.head_count;
        var taken = begun;
        var count = burst.count;
        var bytes: u64 = 0;
        var longest: u32 = 0;
        var differs: Ethernet = @splat(0);
        const segments = burst.source.items.ptr;
        while (taken < end) {
            const entry = run.peek(0) orelse break;
            const len = entry.len -% full_header_bytes;
            if (len -% ethernet_bytes > net_header.frame_bytes_max - ethernet_bytes) break;
            const base = window.host + (window.offsetOf(entry.addr, entry.len) orelse break);
            run.take();
            burst.heads[taken] = .{ .id = entry.id, .count = 1 };
            taken += 1;
            const frame = &burst.frames[count];
            const ethernet = fetch(Ethernet, base + full_header_bytes);
            frame.ethernet = ethernet;
            frame.header = net_header.plain;
            const low = fetch(u64, base);
            if (!net_header.isPlainWord(low)) {
                burst.plain = false;
                frame.header = headerOf(vring, headerFrom(low, base), len) orelse continue;
            }
            segments[count] = .{ .base = base + full_header_bytes, .len = len };
            frame.segments = segments[count..][0..1];
            frame.len = len;
            frame.behind_header = true;
            differs |= ethernet ^ @as(Ethernet, burst.frames[0].ethernet);
            bytes += len;
            longest = @max(longest, len);
            count += 1;
        }
        ring.endRun(run);
        burst.count = count;
        burst.source.used = count;
        burst.head_count = taken;
        burst.bytes += bytes;
        burst.longest = @max(burst.longest, longest);
        burst.alike = burst.alike and frame_file.hasNoAddresses(differs);
        return taken > begun;
    }

    /// A burst of one frame that the guest did not send, but would have.
    noinline fn announce(burst: *Burst, vring: *Vring) void {
        vring.announce_count -= 1;
        vring.stats.announcements += 1;
        announcement_file.write(&burst.announcement, vring.announce_mac);
        const segments = burst.source.items[1..2];
        segments[0] = .{ .base = &burst.announcement, .len = burst.announcement.len };
        burst.source.used = 2;
        burst.frames[0] = .{
            .segments = segments,
            .len = burst.announcement.len,
            .behind_header = false,
            .header = net_header.plain,
            .ethernet = burst.announcement[0..ethernet_bytes].*,
        };
        burst.count = 1;
    }

    inline fn returnLater(burst: *Burst, id: u16, count: u32) void {
        burst.heads[burst.head_count] = .{ .id = id, .count = @intCast(count) };
        burst.head_count += 1;
    }

    /// A frame in one piece, behind a whole header.
    inline fn addShort(burst: *Burst, vring: *Vring, base: [*]u8, len: u32) void {
        @setRuntimeSafety(false);
        const frame = &burst.frames[burst.count];
        const segment = &burst.source.items[burst.source.used];
        segment.* = .{ .base = base + full_header_bytes, .len = len - full_header_bytes };
        frame.segments = segment[0..1];
        frame.len = len - full_header_bytes;
        frame.behind_header = true;
        frame.ethernet = fetch(Ethernet, base + full_header_bytes);
        frame.header = headerOf(vring, fetchHeader(base), frame.len) orelse return;
        burst.source.used += 1;
        burst.count += 1;
    }

    fn addChain(burst: *Burst, vring: *Vring, ring: anytype, entry: vring_entry.Entry) vring_entry.Broken!void {
        const pool = &burst.source;
        const mark = pool.used;
        pool.used += 1;
        var walk = walkOf(vring, pool, .readable, vring.header_bytes + net_header.frame_bytes_max);
        const result = try ring.read(entry, &walk);
        burst.countSteps(walk, result);
        ring.take(result.count);
        burst.returnLater(result.id, result.count);
        const frame = &burst.frames[burst.count];
        const drop = dropOf(vring, frame, &walk, mark + 1, result.whole) orelse {
            burst.count += 1;
            return;
        };
        pool.used = mark;
        drop.* += 1;
    }

    /// The first bytes of a frame, at most `front_bytes_max`, as a private copy: what is changed there
    /// goes out in the place of what the sender has. Once for a frame.
    pub fn front(burst: *Burst, index: usize) []u8 {
        const frame = &burst.frames[index];
        const bytes = &burst.fronts[index];
        var cursor: chain.Cursor = .{ .segments = frame.segments };
        const len = cursor.read(bytes);
        // What was decided by before still holds.
        const seen = @min(len, ethernet_bytes);
        @memcpy(bytes[0..seen], frame.ethernet[0..seen]);
        if (frame.segments.len == 1) {
            const whole = frame.segments[0];
            const halves = &burst.halves[index];
            halves[0] = .{ .base = bytes, .len = @intCast(len) };
            halves[1] = .{ .base = whole.base + len, .len = whole.len - @as(u32, @intCast(len)) };
            frame.segments = halves[0..if (halves[1].len == 0) 1 else 2];
        } else {
            frame.segments = burst.source.replaceFront(frame.segments, bytes[0..len]);
        }
        frame.behind_header = false;
        burst.short = false;
        burst.alike = false;
        return bytes[0..len];
    }

    fn countSteps(burst: *Burst, walk: chain.Walk, result: vring_entry.Chain) void {
        burst.steps += @max(walk.steps_max - walk.steps_left, result.count);
    }

    /// Gives every head back. The sender sees them at once.
    pub fn giveBack(burst: *Burst, vring: *Vring) Used {
        const used = switch (vring.format) {
            .split => burst.giveBackTo(&vring.ring.split),
            .packed_ring => burst.giveBackTo(&vring.ring.packed_ring),
        };
        vring.markUsed(used);
        return used;
    }

    fn giveBackTo(burst: *Burst, ring: anytype) Used {
        ring.completeAll(&burst.heads, burst.head_count);
        return ring.flush();
    }

    /// Copies the frames of `mask` into a guest, in order, and shows them. What does not get there
    /// is counted by reason, in the receiver's ring.
    pub fn deliver(burst: *Burst, vring: *Vring, mask: Mask, mtu: u32) Used {
        vring.lock.acquire();
        defer vring.lock.release();
        burst.left = 0;
        if (vring.isBroken()) {
            vring.stats.drop_link_down += @popCount(mask);
            return .{};
        }
        burst.steps = 0;
        const mergeable = spec.has(vring.config.features, spec.Feature.mrg_rxbuf);
        return switch (vring.format) {
            .split => if (mergeable)
                burst.deliverTo(vring, &vring.ring.split, true, mask, mtu)
            else
                burst.deliverTo(vring, &vring.ring.split, false, mask, mtu),
            .packed_ring => if (mergeable)
                burst.deliverTo(vring, &vring.ring.packed_ring, true, mask, mtu)
            else
                burst.deliverTo(vring, &vring.ring.packed_ring, false, mask, mtu),
        };
    }

    fn deliverTo(burst: *Burst, vring: *Vring, ring: anytype, comptime mergeable: bool, mask: Mask, mtu: u32) Used {
        @setRuntimeSafety(false);
        const plain_bytes_max = if (mtu == 0) std.math.maxInt(u32) else mtu + plain_overhead_bytes;
        var counts: Counts = .{};
        var targets: Targets = .{};
        var left = mask;
        const short = burst.short and vring.header_bytes == full_header_bytes and burst.longest <= plain_bytes_max;
        while (left != 0) {
            if (short and burst.placeRun(vring, ring, &left, &targets, &counts)) continue;
            const frame = &burst.frames[@ctz(left)];
            const placed = (if (isTaken(vring, frame))
                burst.place(vring, ring, mergeable, frame, plain_bytes_max, &targets, &counts)
            else
                burst.placePieces(vring, ring, mergeable, frame, plain_bytes_max, &targets, &counts)) catch |reason| {
                vring.breakBy(reason);
                break;
            };
            switch (placed) {
                .done => {},
                // A smaller one may still fit.
                .short => vring.stats.drop_no_buffer += 1,
                .empty => break,
            }
            left &= left - 1;
        }
        targets.fill(vring);
        const drop = if (vring.isBroken()) &vring.stats.drop_link_down else &vring.stats.drop_no_buffer;
        drop.* += @popCount(left);
        burst.left = left;
        counts.commit(&vring.stats);
        const used = ring.flush();
        vring.markUsed(used);
        return used;
    }

    /// Short frames into buffers of one descriptor, as long as both come. False: neither did.
    inline fn placeRun(
        burst: *Burst,
        vring: *Vring,
        ring: anytype,
        mask: *Mask,
        targets: *Targets,
        counts: *Counts,
    ) bool {
        @setRuntimeSafety(false);
        const window = vring.memory.window(vring.hint);
        var run = ring.beginRun();
        const plain = burst.plain;
        const begun = targets.count;
        var count = begun;
        var left = mask.*;
        var bytes: u64 = 0;
        while (left != 0) {
            const frame = &burst.frames[@ctz(left)];
            if (!plain and !isTaken(vring, frame)) break;
            const entry = run.peek(spec.desc_write) orelse break;
            const len = frame.len;
            const need = full_header_bytes + len;
            if (entry.len < need) break;
            const base = window.host + (window.offsetOf(entry.addr, need) orelse break);
            run.take();
            run.complete(entry.id, need);
            targets.set(count, base, frame, need);
            count += 1;
            bytes += len;
            left &= left - 1;
        }
        ring.endRun(run);
        targets.count = count;
        counts.addMany(burst, mask.* & ~left, bytes);
        mask.* = left;
        return count > begun;
    }

    /// One frame into a guest, unless it has to be dropped.
    inline fn place(
        burst: *Burst,
        vring: *Vring,
        ring: anytype,
        comptime mergeable: bool,
        frame: *const Frame,
        plain_bytes_max: u32,
        targets: *Targets,
        counts: *Counts,
    ) vring_entry.Broken!Placed {
        @setRuntimeSafety(false);
        if (frame.len > plain_bytes_max and frame.header.gso_type == NetHeader.gso_none) {
            vring.stats.drop_too_big += 1;
            return .done;
        }
        while (true) {
            const entry = try ring.next() orelse return .empty;
            const need = full_header_bytes + frame.len;
            const short = vring.header_bytes == full_header_bytes;
            if (short and entry.flags & vring_entry.shape_flags == spec.desc_write and entry.len >= need) {
                if (vring.memory.translate(entry.addr, need, &vring.hint)) |base| {
                    ring.take(1);
                    ring.complete(entry.id, need, 1);
                    targets.add(base, frame, need);
                    counts.add(frame);
                    return .done;
                }
            }
            if (targets.count == 0) break;
            // What lies in the guest's memory now may lie in its ring: look at the entry again.
            targets.fill(vring);
        }
        if (burst.steps >= deliver_steps_max) return .empty;
        return burst.scatter(vring, ring, mergeable, frame, counts);
    }

    /// The same for a frame that its receiver does not take as it is: what we make of it. From the first piece on that
    /// finds no buffers all are dropped: who puts them together again has no use for those behind a gap.
    noinline fn placePieces(
        burst: *Burst,
        vring: *Vring,
        ring: anytype,
        comptime mergeable: bool,
        frame: *const Frame,
        plain_bytes_max: u32,
        targets: *Targets,
        counts: *Counts,
    ) vring_entry.Broken!Placed {
        targets.fill(vring);
        burst.cut.init(frame, spec.has(vring.config.features, spec.Feature.guest_csum)) catch {
            vring.stats.drop_bad_gso += 1;
            return .done;
        };
        const total = burst.cut.pieceCount();
        var done: u32 = 0;
        pieces: while (done < total) {
            burst.cut.next(&burst.pieces);
            defer targets.fill(vring);
            for (burst.pieces.frames[0..burst.pieces.count]) |*piece| {
                const placed = try burst.place(vring, ring, mergeable, piece, plain_bytes_max, targets, counts);
                if (placed != .done and done == 0) return placed;
                if (placed != .done) break :pieces;
                done += 1;
            }
        }
        vring.stats.drop_no_buffer += total - done;
        countPieces(&vring.stats, &burst.cut);
        return .done;
    }

    /// The general way into a guest: over as many descriptors as it takes, and, when mergeable, as
    /// many chains (virtio 5.1.6.4).
    fn scatter(
        burst: *Burst,
        vring: *Vring,
        ring: anytype,
        comptime mergeable: bool,
        frame: *const Frame,
        counts: *Counts,
    ) vring_entry.Broken!Placed {
        const need = vring.header_bytes + frame.len;
        const start = ring.position();
        errdefer ring.rewind(start);
        const steps_end = burst.steps + deliver_steps_max;
        burst.sink.used = 0;
        var total: u64 = 0;
        var count: u32 = 0;
        while (total < need) {
            if (count > 0 and !mergeable) {
                ring.rewind(start);
                vring.stats.drop_too_big += 1;
                return .done;
            }
            const entry = if (count == vring.config.size) null else try ring.next();
            var walk = walkOf(vring, &burst.sink, .writable, need - total);
            const result = try ring.read(entry orelse {
                ring.rewind(start);
                return .short;
            }, &walk);
            ring.take(result.count);
            burst.countSteps(walk, result);
            const capacity: u32 = @intCast(@min(walk.total, std.math.maxInt(u32)));
            burst.gathered[count] = .{ .id = result.id, .count = @intCast(result.count), .capacity = capacity };
            count += 1;
            total += walk.total;
            if (!result.whole or burst.steps > steps_end) {
                for (burst.gathered[0..count]) |each| ring.complete(each.id, 0, each.count);
                vring.stats.drop_bad_chain += 1;
                return .done;
            }
        }
        var header = frame.header;
        header.num_buffers = if (mergeable) @intCast(count) else 1;
        var sink: chain.Cursor = .{ .segments = burst.sink.items[0..burst.sink.used] };
        copyBytes(&sink, std.mem.asBytes(&header)[0..vring.header_bytes]);
        for (frame.segments) |segment| copyBytes(&sink, segment.base[0..segment.len]);
        if (vring.buffer_log) |log| vring.markBuffers(log, burst.sink.items[0..burst.sink.used]);
        var left = need;
        for (burst.gathered[0..count]) |each| {
            const len = @min(left, each.capacity);
            ring.complete(each.id, len, each.count);
            left -= len;
        }
        counts.add(frame);
        return .done;
    }
};

/// What came of one frame: it was delivered, or dropped and counted by its reason; or there are too few buffers for it,
/// or none at all, and it is still to be counted.
const Placed = enum { done, short, empty };

/// Ethernet header and one VLAN tag: what an MTU does not count.
pub const plain_overhead_bytes = spec.ethernet_header_bytes + 4;

pub const Counts = struct {
    packets: u64 = 0,
    bytes: u64 = 0,
    multicast: u64 = 0,
    broadcast: u64 = 0,

    pub inline fn add(counts: *Counts, frame: *const Frame) void {
        counts.packets += 1;
        counts.bytes += frame.len;
        counts.addGroup(frame, 1);
    }

    /// Frames of a burst with so many bytes in all.
    pub inline fn addMany(counts: *Counts, burst: *const Burst, mask: Mask, bytes: u64) void {
        const packets = @popCount(mask);
        counts.packets += packets;
        counts.bytes += bytes;
        if (!burst.alike) {
            var left = mask;
            while (left != 0) : (left &= left - 1) counts.addGroup(&burst.frames[@ctz(left)], 1);
        } else if (packets > 0) {
            counts.addGroup(&burst.frames[0], packets);
        }
    }

    inline fn addGroup(counts: *Counts, frame: *const Frame, packets: u64) void {
        if (!frame.isMulticast()) return;
        const count = if (frame.destination() == broadcast_mac) &counts.broadcast else &counts.multicast;
        count.* += packets;
    }

    pub fn commit(counts: Counts, stats: *abi.VringStats) void {
        if (counts.packets == 0) return;
        stats.bursts += 1;
        stats.packets += counts.packets;
        stats.bytes += counts.bytes;
        stats.multicast += counts.multicast;
        stats.broadcast += counts.broadcast;
    }
};

pub const broadcast_mac = 0xffff_ffff_ffff;

/// Counts what a guest sent.
pub fn countSent(burst: *const Burst, stats: *abi.VringStats) void {
    var counts: Counts = .{};
    if (burst.alike) {
        counts.addMany(burst, firstFrames(burst.count), burst.bytes);
    } else for (burst.frames[0..burst.count]) |*frame| {
        counts.add(frame);
    }
    counts.commit(stats);
}

fn walkOf(vring: *Vring, pool: *chain.Pool, direction: chain.Direction, room: u64) chain.Walk {
    return .{
        .memory = vring.memory,
        .hint = &vring.hint,
        .pool = pool,
        .direction = direction,
        .indirect = spec.has(vring.config.features, spec.Feature.indirect_desc),
        .steps_max = vring.config.size,
        .steps_left = vring.config.size,
        .room = room,
    };
}

pub fn countPieces(stats: *abi.VringStats, cut: *const segment_file.Cut) void {
    if (cut.isWhole()) {
        stats.checksums += @intFromBool(!cut.partial);
    } else {
        stats.cut += 1;
        stats.pieces += cut.pieceCount();
    }
}

/// What a receiver may see of a header that its sender wrote; null, with the drop counted, if it is none.
fn headerOf(vring: *Vring, header: NetHeader, len: u32) ?NetHeader {
    if (net_header.isPlain(header)) return net_header.plain;
    return net_header.checked(header, len, vring.config.features) catch |reason| {
        dropOfHeader(&vring.stats, reason).* += 1;
        return null;
    };
}

/// Whether this guest takes the frame as it is.
inline fn isTaken(vring: *const Vring, frame: *const Frame) bool {
    return net_header.isPlain(frame.header) or
        net_header.accepts(vring.config.features, frame.header, frame.etherType());
}

/// The counter of why a header is none.
pub fn dropOfHeader(stats: *abi.VringStats, reason: net_header.Error) *u64 {
    return switch (reason) {
        error.BadHeader => &stats.drop_bad_header,
        error.BadCsum => &stats.drop_bad_csum,
        error.BadGso => &stats.drop_bad_gso,
    };
}

/// Makes a frame of a chain that was read, or names the counter of why not.
fn dropOf(vring: *Vring, frame: *Frame, walk: *chain.Walk, mark: u32, whole: bool) ?*u64 {
    const stats = &vring.stats;
    if (!whole) return &stats.drop_bad_chain;
    var cursor: chain.Cursor = .{ .segments = walk.pool.items[mark..walk.pool.used] };
    var header = net_header.plain;
    const header_bytes = std.mem.asBytes(&header)[0..vring.header_bytes];
    if (cursor.read(header_bytes) < header_bytes.len) return &stats.drop_bad_header;
    const len = walk.total - header_bytes.len;
    if (len < spec.ethernet_header_bytes) return &stats.drop_runt;
    if (len > net_header.frame_bytes_max) return &stats.drop_too_big;
    frame.len = @intCast(len);
    frame.behind_header = false;
    frame.header = net_header.checked(header, frame.len, vring.config.features) catch |reason|
        return dropOfHeader(stats, reason);
    frame.segments = walk.pool.behind(mark, vring.header_bytes);
    cursor = .{ .segments = frame.segments };
    frame.ethernet = @splat(0);
    _ = cursor.read(&frame.ethernet);
    return null;
}

const Ethernet = @Vector(ethernet_bytes, u8);

/// One load of what the guest may be changing.
inline fn fetch(comptime T: type, base: [*]const u8) T {
    return @as(*align(1) const volatile T, @ptrCast(base)).*;
}

inline fn fetchHeader(base: [*]const u8) NetHeader {
    return headerFrom(fetch(u64, base), base);
}

/// Of which `low` was fetched before.
inline fn headerFrom(low: u64, base: [*]const u8) NetHeader {
    const words: extern struct { low: u64 align(4), high: u32 } = .{ .low = low, .high = fetch(u32, base + 8) };
    return @as(*const NetHeader, @ptrCast(&words)).*;
}

/// The sink was measured before: it has room.
fn copyBytes(sink: *chain.Cursor, bytes: []const u8) void {
    var left = bytes;
    while (left.len > 0) {
        const piece = sink.take(left.len);
        copy(piece.ptr, left.ptr, piece.len);
        left = left[piece.len..];
    }
}
