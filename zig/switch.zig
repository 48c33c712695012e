//! A learning switch: from one guest's burst to the rings of others.

const std = @import("std");
const abi = @import("abi.zig");
const isGratuitous = @import("announcement.zig").isGratuitous;
const burst_file = @import("burst.zig");
const flow = @import("flow.zig");
const MacTable = @import("mac_table.zig").MacTable;
const Port = @import("port.zig").Port;
const queue_burst = @import("queue_burst.zig");
const sys = @import("sys.zig");
const Used = @import("vring_entry.zig").Used;
const Vring = @import("vring.zig").Vring;

const Burst = burst_file.Burst;
const Frame = burst_file.Frame;
const Mask = burst_file.Mask;

/// A fromGuest ring as its worker knows it.
pub const Input = struct {
    pub const Ring = Vring;

    vring: *Vring,
    port: *Port,
    /// A kick wakes the worker; without one it must look by and by.
    watched: bool = false,
    memo: Memo = .{},
};

/// What the last frame of a ring taught: most frames are like the one before.
const Memo = struct {
    source: u64 = 0,
    source_ms: u32 = 0,
    destination: u64 = 0,
    destination_ms: u32 = 0,
    destination_port: u16 = 0,
    generation: u32 = 0,
};

/// A memo is trusted so long without a look into the table.
const memo_ms = 500;

/// Rings to be called once everything of a burst is written: one fence then serves them all.
pub const Notices = struct {
    items: [capacity]Notice,
    count: u32,

    const capacity = 2 * burst_file.frames_max;
    const Notice = struct { vring: *Vring, used: Used };

    pub fn add(notices: *Notices, vring: *Vring, used: Used) void {
        if (!used.any) return;
        if (notices.count == capacity) notices.send();
        notices.items[notices.count] = .{ .vring = vring, .used = used };
        notices.count += 1;
    }

    /// The fence orders what was used before the driver's wish for calls (virtio 2.7.13, 2.8.21).
    pub fn send(notices: *Notices) void {
        if (notices.count == 0) return;
        sys.fence();
        for (notices.items[0..notices.count]) |notice| notice.vring.notify(notice.used);
        notices.count = 0;
    }
};

pub const Switch = struct {
    macs: MacTable,
    ports: [abi.ports_max]?*Port,
    /// Ports that can receive, in order. Rebuilt while workers are paused.
    up: [abi.ports_max]*Port,
    up_count: u32,

    pub fn init(self: *Switch, age_ms: u32) void {
        self.macs.init(age_ms);
        self.ports = @splat(null);
        self.up_count = 0;
    }

    /// Rebuilds what is derived from the state of rings. Workers are held.
    pub fn refresh(self: *Switch) void {
        self.up_count = 0;
        for (self.ports) |each| {
            const port = each orelse continue;
            port.findReceivers();
            if (port.receiver_count == 0 or port.receivers[0].peer == .back_end) continue;
            self.up[self.up_count] = port;
            self.up_count += 1;
        }
    }

    /// Breaks the rings of every port whose memory was truncated. Any thread.
    pub fn breakFaulty(self: *Switch) void {
        for (self.ports) |each| {
            if (each) |port| port.breakIfFaulty();
        }
    }

    /// Delivers a burst. Frames of one source to one destination keep their order; each frame that
    /// goes nowhere is counted by reason in the sender's ring.
    pub fn forward(self: *Switch, input: *Input, burst: *Burst, now_ms: u32, notices: *Notices) void {
        if (burst.alike and burst.count > 0) return self.forwardAlike(input, burst, now_ms, notices);
        var targets: [burst_file.frames_max]u32 = undefined;
        var left: Mask = 0;
        var flooded: Mask = 0;
        for (burst.frames[0..burst.count], 0..) |*frame, i| {
            const bit = @as(Mask, 1) << @intCast(i);
            self.learn(input, frame, now_ms);
            const number = self.find(input, frame, now_ms) orelse {
                flooded |= bit;
                continue;
            };
            const port = self.target(input, number, 1) orelse continue;
            targets[i] = @as(u32, number) << 8 | queueOf(port, frame);
            left |= bit;
        }
        // First: another worker may learn the destination of a flow in the middle of a burst.
        if (flooded != 0) self.flood(input, burst, flooded, notices);
        while (left != 0) {
            const key = targets[@ctz(left)];
            const same = sameAsFirst(&targets, left);
            const port = self.ports[key >> 8].?;
            const vring = port.receivers[key & 0xff];
            notices.add(vring, queue_burst.deliver(burst, vring, same, port.mtu));
            left &= ~same;
        }
    }

    /// From one address to one: all go where the first one goes.
    fn forwardAlike(self: *Switch, input: *Input, burst: *Burst, now_ms: u32, notices: *Notices) void {
        const first = &burst.frames[0];
        const all = burst_file.firstFrames(burst.count);
        self.learn(input, first, now_ms);
        const number = self.find(input, first, now_ms) orelse return self.flood(input, burst, all, notices);
        const port = self.target(input, number, burst.count) orelse return;
        var hashes: ?Hashes = null;
        deliverTo(port, burst, all, &hashes, notices);
    }

    /// Who receives; null, with so many frames counted as dropped, if nobody does.
    fn target(self: *Switch, input: *Input, number: u16, frames: u32) ?*Port {
        const stats = &input.vring.stats;
        if (number == input.port.number) {
            stats.drop_same_port += frames;
            return null;
        }
        const port = self.ports[number];
        if (port != null and port.?.receiver_count > 0) return port;
        stats.drop_link_down += frames;
        return null;
    }

    /// To every port but the sender's.
    fn flood(self: *Switch, input: *Input, burst: *Burst, mask: Mask, notices: *Notices) void {
        var reached = false;
        var hashes: ?Hashes = null;
        for (self.up[0..self.up_count]) |port| {
            if (port == input.port) continue;
            reached = true;
            deliverTo(port, burst, mask, &hashes, notices);
        }
        if (!reached) input.vring.stats.drop_no_port += @popCount(mask);
        input.vring.stats.announcements += announcements(burst, mask);
    }

    fn learn(self: *Switch, input: *Input, frame: *const Frame, now_ms: u32) void {
        const memo = &input.memo;
        const source = frame.source();
        if (source == memo.source and now_ms -% memo.source_ms < memo_ms) return;
        // A group address cannot be a source (IEEE 802.3, 3.2.3).
        if (source & 1 != 0 or source == 0) return;
        self.macs.learn(source, input.port.number, now_ms);
        memo.source = source;
        memo.source_ms = now_ms;
    }

    fn find(self: *Switch, input: *Input, frame: *const Frame, now_ms: u32) ?u16 {
        if (frame.isMulticast()) return null;
        const memo = &input.memo;
        const destination = frame.destination();
        const generation = self.macs.generation.load(.monotonic);
        const fresh = memo.generation == generation and now_ms -% memo.destination_ms < memo_ms;
        if (fresh and memo.destination == destination) return memo.destination_port;
        const port = self.macs.find(destination, now_ms) orelse return null;
        memo.destination = destination;
        memo.destination_ms = now_ms;
        memo.destination_port = port;
        memo.generation = generation;
        return port;
    }
};

/// Of each frame, by its flow.
const Hashes = [burst_file.frames_max]u32;

/// To the queues of a port. Where there are several `hashes` says which, and is found once: the guest may change a
/// frame between two looks.
fn deliverTo(port: *Port, burst: *Burst, mask: Mask, hashes: *?Hashes, notices: *Notices) void {
    if (port.receiver_count == 1) {
        return notices.add(port.receivers[0], queue_burst.deliver(burst, port.receivers[0], mask, port.mtu));
    }
    if (hashes.* == null) hashes.* = hashesOf(burst, mask);
    var queues: Hashes = undefined;
    for (&queues, hashes.*.?) |*queue, hash| queue.* = hash % port.receiver_count;
    var left = mask;
    while (left != 0) {
        const vring = port.receivers[queues[@ctz(left)]];
        const same = sameAsFirst(&queues, left);
        notices.add(vring, queue_burst.deliver(burst, vring, same, port.mtu));
        left &= ~same;
    }
}

/// Those of `mask` whose number is that of the first of them.
fn sameAsFirst(numbers: *const [burst_file.frames_max]u32, mask: Mask) Mask {
    const all: @Vector(burst_file.frames_max, u32) = numbers.*;
    const first: @TypeOf(all) = @splat(numbers[@ctz(mask)]);
    return mask & @as(Mask, @bitCast(all == first));
}

fn announcements(burst: *const Burst, mask: Mask) u32 {
    var count: u32 = 0;
    var left = mask;
    while (left != 0) : (left &= left - 1) count += @intFromBool(isGratuitous(&burst.frames[@ctz(left)]));
    return count;
}

fn hashesOf(burst: *const Burst, mask: Mask) Hashes {
    var hashes: Hashes = @splat(0);
    var left = mask;
    while (left != 0) : (left &= left - 1) {
        const i = @ctz(left);
        hashes[i] = flow.hash(&burst.frames[i]);
    }
    return hashes;
}

fn queueOf(port: *const Port, frame: *const Frame) u32 {
    if (port.receiver_count == 1) return 0;
    return flow.hash(frame) % port.receiver_count;
}
