//! Simulated guests on a switch, worked by hand in one thread, for tests.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const Guest = @import("guest.zig").Guest;
const memory_file = @import("memory.zig");
const Port = @import("port.zig").Port;
const switch_file = @import("switch.zig");

const Input = switch_file.Input;

const guests_max = 4;
const inputs_max = 32;

pub const Rig = struct {
    fabric: *switch_file.Switch,
    burst: *burst_file.Burst,
    notices: switch_file.Notices,
    guests: [guests_max]*Guest,
    ports: [guests_max]*Port,
    count: u32,
    inputs: [inputs_max]Input,
    input_count: u32,

    pub fn create() !*Rig {
        const rig = try std.heap.page_allocator.create(Rig);
        rig.fabric = try std.heap.page_allocator.create(switch_file.Switch);
        rig.fabric.init(300_000);
        rig.burst = try .create();
        rig.notices.count = 0;
        rig.count = 0;
        rig.input_count = 0;
        return rig;
    }

    pub fn destroy(rig: *Rig) void {
        for (rig.guests[0..rig.count], rig.ports[0..rig.count]) |guest, port| {
            port.memory.unmapAll();
            // The rings' eventfds are the guest's.
            for (port.vrings) |*vring| vring.call = -1;
            port.destroy();
            guest.close();
        }
        rig.burst.destroy();
        std.heap.page_allocator.destroy(rig.fabric);
        std.heap.page_allocator.destroy(rig);
    }

    /// One more guest, its rings started and enabled.
    pub fn add(rig: *Rig, config: abi.GuestConfig) !*Guest {
        const guest: *Guest = try .open(config);
        const number: u16 = @intCast(rig.count);
        const port: *Port = try .create(number, .{ .queue_pairs = config.queue_pairs, .mtu = 0 }, -1);
        var table: *memory_file.Table = try .create();
        try table.add(guest.region(), guest.fd, &port.memory.faults);
        port.memory.swap(table);
        table.destroy();
        rig.guests[number] = guest;
        rig.ports[number] = port;
        rig.count += 1;
        rig.fabric.ports[number] = port;
        for (port.vrings, 0..) |*vring, index| {
            const place = guest.vring(@intCast(index));
            try vring.start(.{
                .features = config.features,
                .desc_gpa = place.desc_gpa,
                .avail_gpa = place.avail_gpa,
                .used_gpa = place.used_gpa,
                .log_gpa = 0,
                .size = place.size,
                .base = place.base,
                .flags = 0,
            });
            vring.enabled = true;
            vring.call = place.call;
            if (index % 2 == 0) continue;
            rig.inputs[rig.input_count] = .{ .vring = vring, .port = port };
            rig.input_count += 1;
        }
        rig.fabric.refresh();
        return guest;
    }

    /// One round of every guest and of the switch. False: nobody had anything to do.
    pub fn step(rig: *Rig) !bool {
        var found = false;
        for (rig.guests[0..rig.count]) |guest| found = guest.step() or found;
        for (rig.inputs[0..rig.input_count]) |*input| {
            found = rig.collect(input) or found;
            rig.deliver(input);
            try std.testing.expectEqual(0, input.vring.broken.load(.monotonic));
        }
        return found;
    }

    pub fn collect(rig: *Rig, input: *Input) bool {
        rig.burst.collect(input.vring);
        burst_file.countSent(rig.burst, &input.vring.stats);
        return rig.burst.count > 0;
    }

    pub fn deliver(rig: *Rig, input: *Input) void {
        rig.fabric.forward(input, rig.burst, 0, &rig.notices);
        rig.notices.add(input.vring, rig.burst.giveBack(input.vring));
        rig.notices.send();
    }

    /// Until nobody has anything to do.
    pub fn settle(rig: *Rig) !void {
        var quiet: u32 = 0;
        while (quiet < 3) quiet = if (try rig.step()) 0 else quiet + 1;
    }

    /// Packets that the switch dropped, for whatever reason.
    pub fn drops(rig: *const Rig) u64 {
        var sum: u64 = 0;
        for (rig.ports[0..rig.count]) |port| {
            for ([_]usize{ 0, 1 }) |direction| {
                const stats = port.sum(direction);
                inline for (@typeInfo(abi.VringStats).@"struct".field_names) |name| {
                    if (comptime std.mem.startsWith(u8, name, "drop_")) sum += @field(stats, name);
                }
            }
        }
        return sum;
    }
};

/// Nothing that a guest counts went wrong.
pub fn expectClean(guest: *const Guest) !void {
    const faults = .{ "lost", "duplicated", "reordered", "corrupted", "foreign", "bad_header", "unseen", "broken" };
    inline for (faults) |name| {
        std.testing.expectEqual(0, @field(guest.stats, name)) catch |reason| {
            std.debug.print("guest counts {d} {s}\n", .{ @field(guest.stats, name), name });
            return reason;
        };
    }
}
