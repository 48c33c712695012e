//! One thread that drives several simulated guests by turns. Where guests must share a CPU, they then
//! hand it over without the kernel, which would cost more than the packets do.

const std = @import("std");
const abi = @import("abi.zig");
const guest_file = @import("guest.zig");
const sys = @import("sys.zig");

const Guest = guest_file.Guest;
const allocator = std.heap.c_allocator;

/// The first and the second are partners, the third and the fourth, and so on.
fn partnerOf(index: usize) usize {
    return index ^ 1;
}

pub const Crew = struct {
    guests: []*Guest,
    /// Of the first guest's traffic: where to run, and what to do without traffic.
    cpu: i32,
    wait: abi.GuestWait,
    thread: std.Thread,
    quit: std.atomic.Value(bool),

    /// Starts guests that do not run. They cannot sleep, only poll or yield: a call to one would not
    /// wake the others.
    pub fn start(guests: []const *Guest, traffics: []const abi.GuestTraffic) guest_file.Error!*Crew {
        if (guests.len == 0 or guests.len != traffics.len) return error.InvalidArgument;
        for (guests, traffics, 0..) |guest, traffic, i| {
            if (std.mem.indexOfScalar(*Guest, guests[0..i], guest) != null) return error.InvalidArgument;
            if (traffic.wait == .sleep) return error.InvalidArgument;
            if (traffic.window != 0 and partnerOf(i) >= guests.len) return error.InvalidArgument;
            if (guest.stats.running != 0) return error.AlreadyStarted;
        }
        const crew = try allocator.create(Crew);
        errdefer allocator.destroy(crew);
        crew.guests = try allocator.dupe(*Guest, guests);
        errdefer allocator.free(crew.guests);
        crew.cpu = traffics[0].cpu;
        crew.wait = traffics[0].wait;
        crew.quit = .init(false);
        for (guests, traffics, 0..) |guest, traffic, i| {
            try guest.prepare(traffic);
            // What is echoed is back when the sender sees it again.
            if (traffic.window != 0) {
                const partner = partnerOf(i);
                const seer = if (traffics[partner].echo != 0) guest else guests[partner];
                guest.window = .open(&seer.stats, traffic);
            }
        }
        crew.thread = std.Thread.spawn(.{ .stack_size = sys.thread_stack_bytes }, run, .{crew}) catch
            return error.OutOfMemory;
        for (guests) |guest| guest.stats.running = 1;
        return crew;
    }

    /// Ends the thread, after the bursts in hand, and the crew. The guests stay open.
    pub fn stop(crew: *Crew) void {
        crew.quit.store(true, .release);
        crew.thread.join();
        for (crew.guests) |guest| {
            guest.stats.running = 0;
            guest.stats.sending = 0;
        }
        allocator.free(crew.guests);
        allocator.destroy(crew);
    }

    fn run(crew: *Crew) void {
        sys.blockSignals();
        sys.nameThread("guests");
        // A CPU that is not there is no reason not to run.
        if (crew.cpu >= 0) sys.bindToCpu(@intCast(crew.cpu)) catch {};
        while (!crew.quit.load(.acquire)) {
            var found = false;
            for (crew.guests) |guest| found = guest.step() or found;
            if (found) continue;
            if (crew.wait == .yield) sys.yieldCpu() else std.atomic.spinLoopHint();
        }
    }
};

test "a crew's guests send to each other on one thread, again and again" {
    const rig_file = @import("guest_rig.zig");
    const spec = @import("spec.zig");
    const rig: *rig_file.Rig = try .create();
    defer rig.destroy();
    var config = std.mem.zeroes(abi.GuestConfig);
    config.features = @as(u64, 1) << spec.Feature.version_1;
    config.queue_pairs = 1;
    config.ring_size = 64;
    config.buffer_bytes = 2048;
    config.frame_bytes_max = 1514;
    const guests = [_]*Guest{ try rig.add(config), try rig.add(config) };
    var traffic = std.mem.zeroes(abi.GuestTraffic);
    traffic.frame_bytes = 100;
    traffic.check_every = 1;
    traffic.queues = 1;
    traffic.send = 1;
    traffic.receive = 1;
    traffic.wait = .yield;
    traffic.cpu = -1;
    // With the announcement, no more than the receiver has buffers.
    traffic.count = 60;
    var traffics = [_]abi.GuestTraffic{ traffic, traffic };
    for (&traffics, [_]u64{ 1, 2 }, [_]u64{ 2, 1 }) |*one, source, destination| {
        one.source_mac = 0x0200_0000_0000 + source;
        one.destination_mac = 0x0200_0000_0000 + destination;
    }
    var expected: u64 = 0;
    for (0..3) |_| {
        const crew: *Crew = try .start(&guests, &traffics);
        try std.testing.expectError(error.AlreadyStarted, Crew.start(&guests, &traffics));
        expected += traffic.count;
        const deadline = sys.nanoseconds() + 20 * std.time.ns_per_s;
        for (guests) |guest| {
            while (@atomicLoad(u64, &guest.stats.received_checked, .monotonic) < expected) {
                if (sys.nanoseconds() > deadline) break;
                for (rig.inputs[0..rig.input_count]) |*input| if (rig.collect(input)) rig.deliver(input);
                sys.yieldCpu();
            }
        }
        crew.stop();
        for (guests) |guest| try std.testing.expectEqual(expected, guest.stats.received_checked);
    }
    for (guests) |guest| try rig_file.expectClean(guest);
}

test "what is no crew is refused" {
    var config = std.mem.zeroes(abi.GuestConfig);
    config.features = 1 << 32;
    config.queue_pairs = 1;
    config.ring_size = 16;
    config.buffer_bytes = 2048;
    config.frame_bytes_max = 1514;
    const guest: *Guest = try .open(config);
    defer guest.close();
    var traffic = std.mem.zeroes(abi.GuestTraffic);
    traffic.queues = 1;
    traffic.receive = 1;
    traffic.frame_bytes = 60;
    try std.testing.expectError(error.InvalidArgument, Crew.start(&.{}, &.{}));
    try std.testing.expectError(error.InvalidArgument, Crew.start(&.{guest}, &.{}));
    try std.testing.expectError(error.InvalidArgument, Crew.start(&.{ guest, guest }, &.{ traffic, traffic }));
    traffic.wait = .sleep;
    try std.testing.expectError(error.InvalidArgument, Crew.start(&.{guest}, &.{traffic}));
    traffic.wait = .yield;
    traffic.window = 1;
    try std.testing.expectError(error.InvalidArgument, Crew.start(&.{guest}, &.{traffic}));
    try std.testing.expectError(error.InvalidArgument, guest.start(traffic));
    var others: [2]*Guest = undefined;
    for (&others) |*other| other.* = try .open(config);
    defer for (others) |other| other.close();
    var free = traffic;
    free.window = 0;
    const three = [_]*Guest{ guest, others[0], others[1] };
    try std.testing.expectError(error.InvalidArgument, Crew.start(&three, &.{ free, free, traffic }));
    const crew: *Crew = try .start(&three, &.{ traffic, free, free });
    crew.stop();
}
