//! libvring: what the shared library exports, and every file with unit tests.

const manifest = @import("manifest.zig");

comptime {
    _ = @import("exports.zig");
}

/// Compared with the bindings' own number before any other call.
export fn abi_hash() u64 {
    return manifest.hash;
}

test {
    _ = @import("action.zig");
    _ = @import("announcement.zig");
    _ = @import("chain.zig");
    _ = @import("checksum.zig");
    _ = @import("connection.zig");
    _ = @import("copy.zig");
    _ = @import("copy_floor.zig");
    _ = @import("core_distance.zig");
    _ = @import("dirty_log.zig");
    _ = @import("doorbell.zig");
    _ = @import("driver_entry.zig");
    _ = @import("crash_rig.zig");
    _ = @import("driver_packed.zig");
    _ = @import("driver_split.zig");
    _ = @import("engine.zig");
    _ = @import("flow.zig");
    _ = @import("fuzz_run.zig");
    _ = @import("generator.zig");
    _ = @import("gro.zig");
    _ = @import("guest.zig");
    _ = @import("guest_area.zig");
    _ = @import("guest_rig.zig");
    _ = @import("guest_crew.zig");
    _ = @import("guest_state.zig");
    _ = @import("guest_window.zig");
    _ = @import("guest_transfer.zig");
    _ = @import("handles.zig");
    _ = @import("inflight_rig.zig");
    _ = @import("journal.zig");
    _ = @import("kernel_packet.zig");
    _ = @import("lane.zig");
    _ = @import("link_page.zig");
    _ = @import("listener.zig");
    _ = @import("mac_table.zig");
    _ = @import("memory.zig");
    _ = @import("net_header.zig");
    _ = @import("outbox.zig");
    _ = @import("packet_ring.zig");
    _ = @import("packed.zig");
    _ = @import("packed_place.zig");
    _ = @import("pmd_burst.zig");
    _ = @import("post_copy.zig");
    _ = @import("pump.zig");
    _ = @import("recovery.zig");
    _ = @import("segment.zig");
    _ = @import("split.zig");
    _ = @import("system_file.zig");
    _ = @import("token_table.zig");
    _ = @import("tracer.zig");
    _ = @import("transport.zig");
    _ = @import("uplink_queue.zig");
    _ = @import("vring_entry.zig");
    _ = @import("xdp_receiver.zig");
    _ = @import("xdp_ring.zig");
    _ = @import("xdp_sender.zig");
}
