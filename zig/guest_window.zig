//! Holds the frames of a simulated guest back while its peer has not seen the last ones: as long as the window is no
//! wider than the peer has buffers, none is dropped for want of one, and what is missing was lost for another reason.
//!
//! One thread, which serves both guests.

const std = @import("std");
const abi = @import("abi.zig");

/// With so many rounds in a row in which nothing could come any more, nothing does.
const patience = 64;

pub const Window = struct {
    /// Who receives what the guest sends, at its end, and nothing else.
    peer: *const abi.GuestStats,
    /// Frames that may be on their way.
    frames: u32,
    /// What finds out that the last frames of each flow are lost: as many of its queue's next.
    probes: u32,
    /// Rounds since the window has been closed, and nothing was on its way.
    vain: u32,

    pub fn open(peer: *const abi.GuestStats, traffic: abi.GuestTraffic) Window {
        const flows = @max(traffic.flows, traffic.queues);
        return .{
            .peer = peer,
            .frames = traffic.window,
            .probes = std.math.divCeil(u32, flows, traffic.queues) catch unreachable,
            .vain = 0,
        };
    }

    /// Frames that may be sent now. A frame that is lost is noticed by the next one of its flow alone: where there is
    /// none, since the window is closed, one of each is let through.
    pub fn room(window: *Window, sent: u64, outstanding: u32) u64 {
        // What comes twice makes them more than were sent.
        const ahead = sent -| window.seen();
        if (ahead < window.frames) {
            window.vain = 0;
            return window.frames - ahead;
        }
        if (outstanding > 0) {
            window.vain = 0;
            return 0;
        }
        window.vain += 1;
        if (window.vain < patience) return 0;
        window.vain = 0;
        return window.probes;
    }

    /// Frames that came, and those before them that did not.
    fn seen(window: *const Window) u64 {
        const peer = window.peer;
        return peer.received - peer.announcements - peer.foreign + peer.lost + peer.unseen;
    }
};

test "a closed window lets frames through when nothing is on its way" {
    var peer = std.mem.zeroes(abi.GuestStats);
    var traffic = std.mem.zeroes(abi.GuestTraffic);
    traffic.window = 10;
    traffic.queues = 2;
    traffic.flows = 6;
    var window: Window = .open(&peer, traffic);
    try std.testing.expectEqual(@as(u64, 10), window.room(0, 0));
    try std.testing.expectEqual(@as(u64, 3), window.room(7, 7));
    for (0..2 * patience) |_| try std.testing.expectEqual(@as(u64, 0), window.room(10, 1));
    for (0..patience - 1) |_| try std.testing.expectEqual(@as(u64, 0), window.room(10, 0));
    try std.testing.expectEqual(@as(u64, 3), window.room(10, 0));
    try std.testing.expectEqual(@as(u64, 0), window.room(13, 3));
    // The last three arrive, and tell of seven that were lost; an announcement is no frame of a flow.
    peer.received = 7;
    peer.announcements = 4;
    peer.lost = 7;
    peer.unseen = 3;
    try std.testing.expectEqual(@as(u64, 10), window.room(13, 0));
    // One came twice.
    peer.received += 1;
    try std.testing.expectEqual(@as(u64, 10), window.room(13, 0));
    try std.testing.expectEqual(@as(u64, 1), window.room(23, 9));
}
