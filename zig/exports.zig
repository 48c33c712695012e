//! The functions that cross to TypeScript: each checks its arguments, calls, and maps errors to a
//! status. `manifest.zig` reflects over this file and writes `ffi/abi.gen.ts`.
//!
//! Unless noted, a call is for the control thread, returns `>= 0` or a `Status`, and borrows every
//! buffer for the time of the call.

const std = @import("std");
const abi = @import("abi.zig");
const copy_floor_file = @import("copy_floor.zig");
const core_distance_file = @import("core_distance.zig");
const Engine = @import("engine.zig").Engine;
const Crew = @import("guest_crew.zig").Crew;
const guest_file = @import("guest.zig");
const guest_state = @import("guest_state.zig");
const Transfer = @import("guest_transfer.zig").Transfer;
const Handles = @import("handles.zig").Handles;
const Journal = @import("journal.zig").Journal;
const link_page = @import("link_page.zig");
const Link = link_page.Link;
const Port = @import("port.zig").Port;
const PostCopy = @import("post_copy.zig").PostCopy;
const Pump = @import("pump.zig").Pump;
const sys = @import("sys.zig");
const system_file = @import("system_file.zig");
const tracer = @import("tracer.zig");
const Uplink = @import("uplink.zig").Uplink;
const Vring = @import("vring.zig").Vring;

/// Calls that may wait: TypeScript makes them on a thread of their own.
pub const blocking = .{
    "engine_close",
    "pump_wait",
    "guest_stop",
    "guest_close",
    "crew_stop",
    "core_distance",
    "copy_floor",
};

var engines: Handles(Engine, abi.engines_max) = .{};
var guests: Handles(guest_file.Guest, abi.guests_max) = .{};
var crews: Handles(Crew, abi.guests_max) = .{};
var transfers: Handles(Transfer, abi.transfers_max) = .{};
var pumps: Handles(Pump, abi.pumps_max) = .{};
var uplinks: Handles(Uplink, abi.uplinks_max) = .{};
var links: Handles(Link, abi.links_max) = .{};

// Engines and workers.

/// Returns a handle.
pub export fn engine_open(config: *const abi.EngineConfig) i32 {
    const engine = Engine.create(config.*) catch |reason| return failure(reason);
    return handleOf(engines.open(engine)) orelse {
        engine.destroy();
        return status(.limit_reached);
    };
}

/// Joins the workers.
pub export fn engine_close(handle: u32) i32 {
    const engine = engines.close(handle) orelse return status(.no_such_handle);
    engine.destroy();
    return 0;
}

/// An eventfd, the engine's own, that becomes readable when a ring breaks.
pub export fn engine_attention(handle: u32) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    return engine.attention;
}

/// Returns the worker's number.
pub export fn worker_add(handle: u32, config: *const abi.WorkerConfig) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    const number = engine.addWorker(config.*) catch |reason| return failure(reason);
    return @intCast(number);
}

/// A snapshot; any thread.
pub export fn worker_stats(handle: u32, number: u32, stats: *abi.WorkerStats) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    if (number >= engine.worker_count) return status(.invalid_argument);
    stats.* = engine.workers[number].stats;
    return 0;
}

/// To be called a few times a second: frees a worker that hangs on a front end's eventfd.
pub export fn engine_check(handle: u32) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    engine.check();
    return 0;
}

/// Stops all rings for another process to go on where they stand, until `engine_proceed`. Calls in between are carried
/// out, and come into force with that.
pub export fn engine_pause(handle: u32) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    engine.pause() catch |reason| return failure(reason);
    return 0;
}

pub export fn engine_proceed(handle: u32) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    engine.proceed();
    return 0;
}

/// All addresses that were learned: 48 bits as they lie in a frame, and behind them the number of the port + 1. Returns
/// how many.
pub export fn engine_macs(handle: u32, words: [*]u64, count: u32) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    return @intCast(engine.fabric.macs.all(words[0..count], sys.milliseconds()));
}

// Ports and rings.

/// Returns the port's number.
pub export fn port_open(handle: u32, config: *const abi.PortConfig) i32 {
    const engine = engines.get(handle) orelse return status(.no_such_handle);
    const number = engine.openPort(config.*) catch |reason| return failure(reason);
    return @intCast(number);
}

pub export fn port_close(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.closePort(place.port) catch |reason| return failure(reason);
    return 0;
}

/// Stops every ring, drops every eventfd and all memory.
pub export fn port_reset(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.resetPort(place.port) catch |reason| return failure(reason);
    return 0;
}

/// The guest's driver is called by a doorbell: `fd`, borrowed, is BAR 0 of an ivshmem device, which begins at `offset`
/// in its page, and each ring is `peer`'s vector of its number. -1: by eventfds.
pub export fn port_set_doorbell(handle: u32, number: u32, fd: i32, offset: u32, peer: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.setDoorbell(place.port, fd, offset, peer) catch |reason| return failure(reason);
    return 0;
}

/// Copies bytes of the guest's memory out.
pub export fn port_read(handle: u32, number: u32, gpa: *const u64, bytes: [*]u8, count: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    var hint: u32 = 0;
    return if (place.port.memory.read(gpa.*, bytes[0..count], &hint)) 0 else status(.unmapped);
}

/// The longest frame to the guest, without its Ethernet header; 0: as the port was opened.
pub export fn port_set_mtu(handle: u32, number: u32, mtu: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.setMtu(place.port, mtu) catch |reason| return failure(reason);
    return 0;
}

/// Opens the file at `path` for `port_set_journal`, or makes an empty one, and locks it: `busy` where another process
/// has it. Returns an fd.
pub export fn journal_open(path: [*]const u8, path_bytes: u32) i32 {
    return Journal.openFile(path[0..path_bytes]) catch |reason| failure(reason);
}

/// CRC-32 of ISO 3309, by which the head of such a file is known.
pub export fn crc32(bytes: [*]const u8, count: u32) u32 {
    return std.hash.Crc32.hash(bytes[0..count]);
}

/// What is known of the port's rings is what such a file says, and goes there from now on. None of them runs. On
/// success the fd is taken over.
pub export fn port_set_journal(handle: u32, number: u32, fd: i32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.setJournal(place.port, fd) catch |reason| return failure(reason);
    return 0;
}

/// Returns the fd, the port's own, of what is known of its rings.
pub export fn port_journal_fd(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    return place.port.journal.fd;
}

/// What we have in hand of so many of the port's rings, of `queue_size` at most, is written to `size_bytes` of a file,
/// borrowed, from `mmap_offset` of `part` on (vhost-user, Inflight I/O tracking). None of them runs. `owned` 0: another
/// process writes there, and nothing does here before `port_own_inflight`.
pub export fn port_set_inflight(
    handle: u32,
    number: u32,
    part: *const abi.Region,
    fd: i32,
    queues: u32,
    queue_size: u32,
    owned: u32,
) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const engine = place.engine;
    engine.setInflight(place.port, fd, part.*, queues, queue_size, owned != 0) catch |reason| return failure(reason);
    return 0;
}

/// Nobody else writes to what was set so any more. No ring was served since it was started.
pub export fn port_own_inflight(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.ownInflight(place.port) catch |reason| return failure(reason);
    return 0;
}

/// Returns the fd, the port's own, of what was set so.
pub export fn port_inflight_fd(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const inflight = place.port.inflight orelse return status(.no_such_handle);
    return if (inflight.fd >= 0) inflight.fd else status(.limit_reached);
}

/// 1: a ring of the port runs, or was left by somebody who could not stop it; 0: none.
pub export fn port_is_left(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    return @intFromBool(place.port.journal.isLive());
}

/// What becomes of the frames from this guest, from now on.
pub export fn port_set_lane(handle: u32, number: u32, lane: *const abi.Lane) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.setLane(place.port, lane.*) catch |reason| return failure(reason);
    return 0;
}

/// Makes a port face a back end, with the rings of a guest that does not run; until `port_reset`.
pub export fn port_drive(handle: u32, number: u32, guest_handle: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const guest = guests.get(guest_handle) orelse return status(.no_such_handle);
    place.engine.drive(place.port, guest) catch |reason| return failure(reason);
    return 0;
}

/// Opens an interface of the host's, makes it if it is not there, and sets it up. Returns a handle; `uplink` then has
/// what was found, or at a failure the step.
pub export fn uplink_open(uplink: *abi.Uplink) i32 {
    const opened = Uplink.open(uplink) catch |reason| return failure(reason);
    return handleOf(uplinks.open(opened)) orelse {
        opened.close();
        return status(.limit_reached);
    };
}

/// What was made goes once no port is attached any more; what was there before is as it was.
pub export fn uplink_close(handle: u32) i32 {
    const uplink = uplinks.close(handle) orelse return status(.no_such_handle);
    uplink.close();
    return 0;
}

/// 1: the interface was deleted meanwhile, and perhaps made anew; else 0.
pub export fn uplink_gone(handle: u32) i32 {
    const uplink = uplinks.get(handle) orelse return status(.no_such_handle);
    return @intFromBool(uplink.isGone());
}

/// Fills in what a process needs that is to go on with it, beside the fds. Fails for AF_XDP before Linux 6.4.
pub export fn uplink_state(handle: u32, state: *abi.UplinkState) i32 {
    const uplink = uplinks.get(handle) orelse return status(.no_such_handle);
    state.* = uplink.state() catch |reason| return failure(reason);
    return 0;
}

/// Returns an fd, the uplink's own, that a process needs that is to go on with it: one for each queue pair; of AF_XDP
/// then one for the memory of each, two that keep the program, and one by which the interface hears all.
pub export fn uplink_fd(handle: u32, number: u32) i32 {
    const uplink = uplinks.get(handle) orelse return status(.no_such_handle);
    return uplink.fdOf(number) catch |reason| failure(reason);
}

/// Returns a handle. On success it owns the fds, all of `uplink_fd`. It is shared.
pub export fn uplink_adopt(uplink: *const abi.Uplink, state: *const abi.UplinkState, fds: [*]const i32) i32 {
    if (uplink.queue_pairs > abi.queue_pairs_max) return status(.invalid_argument);
    const count = Uplink.fdCount(uplink.kind, uplink.queue_pairs);
    const adopted = Uplink.adopt(uplink, state.*, fds[0..count]) catch |reason| return failure(reason);
    return handleOf(uplinks.open(adopted)) orelse {
        // The caller has the fds still.
        adopted.forget();
        return status(.limit_reached);
    };
}

/// Where to go on in the rings of a queue pair, of one that was adopted and is not attached yet. The other process
/// rests.
pub export fn uplink_begin_at(handle: u32, pair: u32, position: u32) i32 {
    const uplink = uplinks.get(handle) orelse return status(.no_such_handle);
    uplink.beginAt(pair, position) catch |reason| return failure(reason);
    return 0;
}

/// 1: another process has it too, and closing it leaves all as it is. 0: it is ours alone.
pub export fn uplink_share(handle: u32, shared: u32) i32 {
    const uplink = uplinks.get(handle) orelse return status(.no_such_handle);
    uplink.shared = shared != 0;
    return 0;
}

/// Makes a port lead to an interface, until `port_reset`.
pub export fn port_attach(handle: u32, number: u32, uplink_handle: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const uplink = uplinks.get(uplink_handle) orelse return status(.no_such_handle);
    place.engine.attach(place.port, uplink) catch |reason| return failure(reason);
    return 0;
}

/// Maps `fds[i]`, borrowed, for `regions[i]`.
pub export fn port_set_memory(
    handle: u32,
    number: u32,
    regions: [*]const abi.Region,
    fds: [*]const i32,
    count: u32,
) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    if (count > abi.regions_max) return status(.limit_reached);
    place.engine.setMemory(place.port, regions[0..count], fds[0..count]) catch |reason| return failure(reason);
    return 0;
}

pub export fn port_add_region(handle: u32, number: u32, region: *const abi.Region, fd: i32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.addRegion(place.port, region.*, fd) catch |reason| return failure(reason);
    return 0;
}

/// The region with this guest address and size.
pub export fn port_remove_region(handle: u32, number: u32, region: *const abi.Region) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.removeRegion(place.port, region.*) catch |reason| return failure(reason);
    return 0;
}

/// Marks what is written to the guest in `size_bytes` of a file, borrowed, from `mmap_offset` of `part` on; -1: rings
/// whose front end wants marks rest.
pub export fn port_set_log(handle: u32, number: u32, part: *const abi.Region, fd: i32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    if (fd < 0) {
        place.engine.dropLog(place.port) catch |reason| return failure(reason);
    } else {
        place.engine.setLog(place.port, fd, part.mmap_offset, part.size_bytes) catch |reason| return failure(reason);
    }
    return 0;
}

/// An eventfd to be signalled when pages were marked. On success it belongs to the port; -1 drops the one it had.
pub export fn port_set_log_bell(handle: u32, number: u32, fd: i32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.setLogBell(place.port, fd) catch |reason| return failure(reason);
    return 0;
}

/// Says in the guest's name where it is, by RARP, as soon as its first ring is up. The MAC address as it lies in a
/// frame: the first four bytes in `low`, the others in `high`.
pub export fn port_announce(handle: u32, number: u32, low: u32, high: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.engine.announce(place.port, @as(u64, high) << 32 | low) catch |reason| return failure(reason);
    return 0;
}

/// Returns how often the guest is still to be announced, and as whom.
pub export fn port_announcements(handle: u32, number: u32, mac: *u64) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    mac.* = place.port.vrings[1].announce_mac;
    return @intCast(place.port.vrings[1].announce_count);
}

/// Returns the fd, the port's own, of the region with this guest address and size.
pub export fn port_region_fd(handle: u32, number: u32, region: *const abi.Region) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    return place.port.memory.fdOf(region.*) orelse status(.no_such_handle);
}

/// Returns the fd, the port's own, of its log, and which `part` of the file that is.
pub export fn port_log_fd(handle: u32, number: u32, part: *abi.Region) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const log = place.port.log orelse return status(.no_such_handle);
    part.* = .{ .gpa = 0, .size_bytes = log.bits.len, .mmap_offset = log.offset };
    return if (log.fd >= 0) log.fd else status(.limit_reached);
}

/// Returns the eventfd, the port's own, that is signalled when pages were marked.
pub export fn port_log_bell(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    return if (place.port.log_bell >= 0) place.port.log_bell else status(.no_such_handle);
}

/// Addresses that were learned of a port, as they lie in a frame; 256 at most. Returns their number.
pub export fn port_macs(handle: u32, number: u32, macs: [*]u64, count: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const table = &place.engine.fabric.macs;
    return @intCast(table.addressesOf(place.port.number, macs[0..count], sys.milliseconds()));
}

/// As if frames from these addresses had come from the port's guest.
pub export fn port_learn(handle: u32, number: u32, macs: [*]const u64, count: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const now_ms = sys.milliseconds();
    for (macs[0..count]) |mac| {
        if (mac >> 48 != 0 or mac & 1 != 0) return status(.invalid_argument);
        place.engine.fabric.macs.learn(mac, place.port.number, now_ms);
    }
    return 0;
}

/// Whether this host lets us serve guests in post-copy.
pub export fn post_copy_probe() i32 {
    PostCopy.probe() catch |reason| return failure(reason);
    return 0;
}

/// Returns a userfaultfd, the port's own, for the front end.
pub export fn port_advise_post_copy(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    return place.port.memory.post_copy.advise() catch |reason| return failure(reason);
}

/// Memory that comes from now on is the front end's to fetch. There must be none yet.
pub export fn port_listen_post_copy(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    if (place.port.memory.count > 0) return status(.busy);
    place.port.memory.post_copy.listen() catch |reason| return failure(reason);
    return 0;
}

/// Everything of the guest is here.
pub export fn port_end_post_copy(handle: u32, number: u32) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    place.port.memory.post_copy.end();
    return 0;
}

/// Where a region begins in this process, for the front end of a guest in post-copy.
pub export fn port_region_address(handle: u32, number: u32, region: *const abi.Region, address: *u64) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    const host = place.port.memory.hostOf(region.*) orelse return status(.no_such_handle);
    address.* = @intFromPtr(host);
    return 0;
}

/// Counters of one direction, summed over the rings: 0 toGuest, 1 fromGuest.
pub export fn port_stats(handle: u32, number: u32, direction: u32, stats: *abi.VringStats) i32 {
    const place = portOf(handle, number) orelse return status(.no_such_handle);
    if (direction > 1) return status(.invalid_argument);
    stats.* = place.port.sum(direction);
    return 0;
}

/// Rings are numbered as on the wire: 2i toGuest, 2i + 1 fromGuest.
pub export fn vring_start(handle: u32, number: u32, index: u32, config: *const abi.VringConfig) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    place.engine.startVring(place.port, place.vring, config.*) catch |reason| return failure(reason);
    return 0;
}

/// What of a running ring is to be marked: LOG_ALL of `features`, `flags` and `log_gpa` of `config`.
pub export fn vring_set_log(handle: u32, number: u32, index: u32, config: *const abi.VringConfig) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    place.engine.setVringLog(place.port, place.vring, config.*) catch |reason| return failure(reason);
    return 0;
}

pub export fn vring_stop(handle: u32, number: u32, index: u32, state: *abi.VringState) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    state.* = place.engine.stopVring(place.port, place.vring) catch |reason| return failure(reason);
    return 0;
}

pub export fn vring_enable(handle: u32, number: u32, index: u32, enabled: u32) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    place.engine.enableVring(place.vring, enabled != 0) catch |reason| return failure(reason);
    return 0;
}

/// `kind` is a `VringFd`. On success `fd` belongs to the ring; -1 drops the one it had.
pub export fn vring_set_fd(handle: u32, number: u32, index: u32, kind: u32, fd: i32) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    const which = std.enums.fromInt(abi.VringFd, kind) orelse return status(.invalid_argument);
    place.engine.setVringFd(place.vring, which, fd) catch |reason| return failure(reason);
    return 0;
}

/// Returns the eventfd, the ring's own; `kind` is a `VringFd`.
pub export fn vring_fd(handle: u32, number: u32, index: u32, kind: u32) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    const which = std.enums.fromInt(abi.VringFd, kind) orelse return status(.invalid_argument);
    const fd = place.vring.fdOf(which).*;
    return if (fd >= 0) fd else status(.no_such_handle);
}

pub export fn vring_state(handle: u32, number: u32, index: u32, state: *abi.VringState) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    state.* = place.vring.state();
    return 0;
}

/// A snapshot; any thread.
pub export fn vring_stats(handle: u32, number: u32, index: u32, stats: *abi.VringStats) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    stats.* = place.vring.stats;
    return 0;
}

/// Copies frames from the guest into `arena`, as `pmd_burst.zig` says. Returns their number. For an engine without
/// workers.
pub export fn vring_receive(
    handle: u32,
    number: u32,
    index: u32,
    arena: [*]u8,
    arena_bytes: u32,
    packets: [*]abi.Packet,
    packet_count: u32,
) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    const room = packets[0..packet_count];
    const count = place.engine.receive(place.port, place.vring, arena[0..arena_bytes], room) catch |reason|
        return failure(reason);
    return @intCast(count);
}

/// Copies frames from `arena` to the guest. Returns how many are done with: the others found no buffer. For an engine
/// without workers.
pub export fn vring_send(
    handle: u32,
    number: u32,
    index: u32,
    arena: [*]u8,
    arena_bytes: u32,
    packets: [*]const abi.Packet,
    packet_count: u32,
) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    const frames = packets[0..packet_count];
    const count = place.engine.send(place.port, place.vring, arena[0..arena_bytes], frames) catch |reason|
        return failure(reason);
    return @intCast(count);
}

/// Asks for kicks, or no more. Returns whether something is there already: 1 or 0. For an engine without workers.
pub export fn vring_arm(handle: u32, number: u32, index: u32, armed: u32) i32 {
    const place = vringOf(handle, number, index) orelse return status(.no_such_handle);
    const pending = place.engine.arm(place.port, place.vring, armed != 0) catch |reason| return failure(reason);
    return @intFromBool(pending);
}

// Control sockets.

/// Returns a handle. A message, theirs or ours, may be under way for so long.
pub export fn pump_open(stall_limit_ms: u32) i32 {
    const pump = Pump.create(stall_limit_ms) catch |reason| return failure(reason);
    return handleOf(pumps.open(pump)) orelse {
        pump.destroy() catch unreachable;
        return status(.limit_reached);
    };
}

/// Closes every socket, and removes the files of the listeners. Refused while a `pump_wait` is under way.
pub export fn pump_close(handle: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    pump.destroy() catch |reason| return failure(reason);
    _ = pumps.close(handle);
    return 0;
}

/// Returns the number of events; 0 after `timeout_ms` (-1: never), or earlier for no reason that matters.
/// `max` is 2 or more; more than `pump_batch_max` do not come.
pub export fn pump_wait(handle: u32, events: [*]abi.PumpEvent, max: u32, timeout_ms: i32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    const count = pump.wait(events[0..@min(max, abi.pump_batch_max)], timeout_ms) catch |reason| return failure(reason);
    return @intCast(count);
}

/// Makes the wait under way, or the next, return.
pub export fn pump_wake(handle: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    pump.wake();
    return 0;
}

/// Returns a token. The file at `path` gets exactly the permission bits `mode`.
pub export fn pump_listen(handle: u32, path: [*]const u8, path_bytes: u32, mode: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    if (mode > 0o777) return status(.invalid_argument);
    return tokenOf(pump.listen(path[0..path_bytes], mode));
}

/// Returns a token, or fails at once. The connection is not read before `pump_resume`.
pub export fn pump_connect(handle: u32, path: [*]const u8, path_bytes: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    return tokenOf(pump.connect(path[0..path_bytes]));
}

/// Returns a token; on success the connected socket belongs to it. Not read before `pump_resume`.
pub export fn pump_adopt(handle: u32, fd: i32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    return tokenOf(pump.adopt(fd));
}

/// Returns a token; on success the listening socket belongs to it.
pub export fn pump_adopt_listener(handle: u32, fd: i32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    return tokenOf(pump.adoptListener(fd));
}

/// Returns a token; on success the socket belongs to it, which listens at `path` and had this file there. It is held.
pub export fn pump_adopt_listener_at(
    handle: u32,
    fd: i32,
    path: [*]const u8,
    path_bytes: u32,
    file: *const abi.SocketFile,
) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    return tokenOf(pump.adoptListenerAt(fd, path[0..path_bytes], file.*));
}

/// 1: neither reads nor accepts any more, and closing leaves socket and file as they are. 0: as before.
pub export fn pump_hold(handle: u32, token: u32, held: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    pump.hold(token, held != 0) catch |reason| return failure(reason);
    return 0;
}

/// Returns the fd, the pump's own, of what is held, and of a listener its file. `busy`: a message is under way.
pub export fn pump_socket(handle: u32, token: u32, file: *abi.SocketFile) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    return pump.socketOf(token, file) catch |reason| return failure(reason);
}

/// Ends a connection both ways; what came before still comes, and then the hangup.
pub export fn pump_shut(handle: u32, token: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    pump.shut(token) catch |reason| return failure(reason);
    return 0;
}

pub export fn pump_peer(handle: u32, token: u32, peer: *abi.SocketPeer) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    peer.* = pump.peerOf(token) catch |reason| return failure(reason);
    return 0;
}

/// Returns a token whose events tell that the fd, borrowed and never read, became readable.
pub export fn pump_watch(handle: u32, fd: i32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    return tokenOf(pump.watch(fd));
}

/// Reads a connection's next message.
pub export fn pump_resume(handle: u32, token: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    pump.resumeReading(token) catch |reason| return failure(reason);
    return 0;
}

/// Sends a message, or queues it; borrows `fds`. Returns 0 when the kernel has all of it, 1 when some waits. `closed`:
/// it is lost, and a hangup event follows.
pub export fn pump_send(
    handle: u32,
    token: u32,
    request: u32,
    flags: u32,
    payload: [*]const u8,
    payload_bytes: u32,
    fds: [*]const i32,
    fd_count: u32,
) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    const sent = pump.send(token, .{
        .request = request,
        .flags = flags,
        .payload = payload[0..payload_bytes],
        .fds = fds[0..fd_count],
    }) catch |reason| return failure(reason);
    return @intFromBool(!sent);
}

/// Closes what the token stands for; no event follows.
pub export fn pump_close_token(handle: u32, token: u32) i32 {
    const pump = pumps.get(handle) orelse return status(.no_such_handle);
    pump.close(token) catch |reason| return failure(reason);
    return 0;
}

// Fds.

pub export fn fd_close(fd: i32) i32 {
    sys.close(fd);
    return 0;
}

/// Returns a `FdKind`.
pub export fn fd_kind(fd: i32) i32 {
    return @intCast(@backingInt(kindOf(fd)));
}

/// Whether it is a Unix stream socket that listens: 1 or 0.
pub export fn fd_listens(fd: i32) i32 {
    const kind = sys.socketKind(fd) catch return 0;
    return @intFromBool(kind == .listener);
}

/// Returns an eventfd, nonblocking.
pub export fn fd_eventfd() i32 {
    return sys.eventfd() catch |reason| failure(reason);
}

/// Adds one to an eventfd's counter.
pub export fn fd_signal(fd: i32) i32 {
    _ = sys.eventfdSignal(fd);
    return 0;
}

/// Empties an eventfd's counter, and returns it as far as it fits.
pub export fn fd_drain(fd: i32) i32 {
    return @intCast(@min(sys.eventfdDrain(fd), std.math.maxInt(i32)));
}

/// Writes all of it at once, or nothing; never waits.
pub export fn fd_write_now(fd: i32, bytes: [*]const u8, count: u32) i32 {
    sys.setNonblocking(fd) catch |reason| return failure(reason);
    sys.writePacket(fd, &.{.{ .base = bytes, .len = count }}) catch |reason| return failure(reason);
    return 0;
}

/// Returns how many bytes came, and 0 at the end; never waits.
pub export fn fd_read_now(fd: i32, bytes: [*]u8, count: u32) i32 {
    sys.setNonblocking(fd) catch |reason| return failure(reason);
    return @intCast(sys.readFile(fd, bytes[0..count]) catch |reason| return failure(reason));
}

/// Returns an anonymous file of `size` bytes, sealed against shrinking.
pub export fn fd_memory_file(size: *const u64) i32 {
    if (size.* > std.math.maxInt(i64)) return status(.invalid_argument);
    return sys.memoryFile("vhostctl", size.*) catch |reason| failure(reason);
}

/// Which file it is.
pub export fn fd_identify(fd: i32, identity: *abi.FileIdentity) i32 {
    const file = sys.fileInfo(fd) catch |reason| return failure(reason);
    if (!file.regular) return status(.wrong_fd);
    identity.* = .{ .device = file.device, .inode = file.inode, .size_bytes = file.size };
    return 0;
}

/// Sends a few bytes through a Unix socket, and with them an fd, borrowed, unless it is -1; never waits.
pub export fn fd_send(socket: i32, bytes: [*]const u8, count: u32, fd: i32) i32 {
    const fds = [_]i32{fd};
    const sent = sys.send(socket, bytes[0..count], fds[0..@intFromBool(fd >= 0)]) catch |reason| return failure(reason);
    return if (sent == count) 0 else status(.would_block);
}

// Links.

/// The writer's end of a link page, in the file at `path`, made with these permission bits where there is none. Returns
/// a handle. `busy`: another process has it.
pub export fn link_create(path: [*]const u8, path_bytes: u32, mode: u32) i32 {
    const fd = link_page.openFile(path[0..path_bytes], mode) catch |reason| return failure(reason);
    return linkOf(fd, Link.create(fd));
}

/// The reader's end: `fd` is that file, or a BAR that shows it, and is taken over in any case. `invalid_argument`: it
/// is none, or of another version.
pub export fn link_attach(fd: i32) i32 {
    return linkOf(fd, Link.attach(fd));
}

pub export fn link_close(handle: u32) i32 {
    const link = links.close(handle) orelse return status(.no_such_handle);
    link.close();
    return 0;
}

/// Tells the reader all of it anew; so many regions and rings as the head says. Returns the generation.
pub export fn link_publish(
    handle: u32,
    head: *const abi.LinkHead,
    regions: [*]const abi.Region,
    vrings: [*]const abi.LinkVring,
) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    const known = regions[0..head.region_count];
    const generation = link.publish(head.*, known, vrings[0..head.vring_count]) catch |reason| return failure(reason);
    return @intCast(generation);
}

/// The generation that is there, or an odd number while another is being written.
pub export fn link_generation(handle: u32) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    return @intCast(link.generation());
}

/// Fills head, regions and rings, for which there is room for as many as there can be. `busy`: they are being written.
pub export fn link_read(handle: u32, head: *abi.LinkHead, regions: [*]abi.Region, vrings: [*]abi.LinkVring) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    link.read(head, regions[0..abi.link_regions_max], vrings[0..abi.link_vrings_max]) catch |reason|
        return failure(reason);
    return 0;
}

/// The reader goes by this generation from now on; an odd number: by none.
pub export fn link_acknowledge(handle: u32, generation: u32) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    link.acknowledge(generation);
    return 0;
}

/// The reader is there.
pub export fn link_beat(handle: u32) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    link.beat();
    return 0;
}

/// Another number than a while ago: the reader is there.
pub export fn link_beats(handle: u32) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    return @intCast(link.beats());
}

/// Whether the reader goes by this generation, 1 or 0; waits for it so long at most.
pub export fn link_await(handle: u32, generation: u32, patience_ms: u32) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    return @intFromBool(link.await(generation, patience_ms));
}

/// Where the reader leaves a ring; to be told before the generation is acknowledged.
pub export fn link_set_stand(handle: u32, vring: u32, stand: *const abi.LinkStand) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    link.setStand(vring, stand.*) catch |reason| return failure(reason);
    return 0;
}

/// What a reader said of it last: anything, where that is hostile.
pub export fn link_stand(handle: u32, vring: u32, stand: *abi.LinkStand) i32 {
    const link = links.get(handle) orelse return status(.no_such_handle);
    stand.* = link.standOf(vring) catch |reason| return failure(reason);
    return 0;
}

fn linkOf(fd: i32, opened: link_page.Error!*Link) i32 {
    const link = opened catch |reason| {
        const code = failure(reason);
        sys.close(fd);
        return code;
    };
    return handleOf(links.open(link)) orelse {
        link.close();
        return status(.limit_reached);
    };
}

// Simulated guests.

/// Returns a handle.
pub export fn guest_open(config: *const abi.GuestConfig) i32 {
    const guest = guest_file.Guest.open(config.*) catch |reason| return failure(reason);
    return handleOf(guests.open(guest)) orelse {
        guest.close();
        return status(.limit_reached);
    };
}

/// Ends its thread and frees its memory here; a back end that has it mapped keeps it. Refused while a port drives it.
pub export fn guest_close(handle: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    if (guest.driven) return status(.busy);
    _ = guests.close(handle);
    guest.close();
    return 0;
}

/// Returns the fd, the guest's own, of its one region.
pub export fn guest_memory(handle: u32, region: *abi.Region) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    region.* = guest.region();
    return guest.fd;
}

/// Rings are numbered as on the wire: 2i receives, 2i + 1 sends.
pub export fn guest_vring(handle: u32, index: u32, vring: *abi.GuestVring) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    if (index >= guest.vringCount()) return status(.invalid_argument);
    vring.* = guest.vring(index);
    return 0;
}

/// All rings as new. Neither the guest nor a device works on them.
pub export fn guest_reset(handle: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    guest.reset() catch |reason| return failure(reason);
    return 0;
}

pub export fn guest_start(handle: u32, traffic: *const abi.GuestTraffic) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    guest.start(traffic.*) catch |reason| return failure(reason);
    return 0;
}

/// Joins its thread, if there is one.
pub export fn guest_stop(handle: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    guest.stop();
    return 0;
}

/// A snapshot; any thread.
pub export fn guest_stats(handle: u32, stats: *abi.GuestStats) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    stats.* = guest.stats;
    return 0;
}

/// A snapshot; any thread.
pub export fn guest_vring_stats(handle: u32, index: u32, stats: *abi.GuestVringStats) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    if (index >= guest.vringCount()) return status(.invalid_argument);
    stats.* = guest.vringStats(index);
    return 0;
}

/// Starts guests on one thread; the first one's traffic says where it runs. Returns a handle. Until
/// `crew_stop` they may be neither stopped nor closed.
pub export fn crew_start(handles: [*]const u32, traffics: [*]const abi.GuestTraffic, count: u32) i32 {
    var crew_guests: [abi.guests_max]*guest_file.Guest = undefined;
    if (count > abi.guests_max) return status(.limit_reached);
    for (handles[0..count], crew_guests[0..count]) |handle, *guest| {
        guest.* = guests.get(handle) orelse return status(.no_such_handle);
    }
    const crew = Crew.start(crew_guests[0..count], traffics[0..count]) catch |reason| return failure(reason);
    return handleOf(crews.open(crew)) orelse {
        crew.stop();
        return status(.limit_reached);
    };
}

/// Joins the thread. The guests can be started again.
pub export fn crew_stop(handle: u32) i32 {
    const crew = crews.close(handle) orelse return status(.no_such_handle);
    crew.stop();
    return 0;
}

/// Gives the device frames without a kick, from a guest that does not run. Returns how many.
pub export fn guest_offer(handle: u32, frames: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    const count = guest.offer(frames) catch |reason| return failure(reason);
    return @intCast(count);
}

/// Kicks every ring.
pub export fn guest_kick(handle: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    guest.kick();
    return 0;
}

/// Writes what a guest that does not run knows. Returns how many bytes.
pub export fn guest_save(handle: u32, bytes: [*]u8, bytes_max: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    const count = guest_state.save(guest, bytes[0..bytes_max]) catch |reason| return failure(reason);
    return @intCast(count);
}

/// Makes a guest of the same config, which does not run, go on where another was saved.
pub export fn guest_load(handle: u32, bytes: [*]u8, byte_count: u32) i32 {
    const guest = guests.get(handle) orelse return status(.no_such_handle);
    guest_state.load(guest, bytes[0..byte_count]) catch |reason| return failure(reason);
    return 0;
}

/// Returns a handle. `fd`, borrowed, has the memory of a guest of the same config. The guest is closed later.
pub export fn transfer_open(guest_handle: u32, fd: i32) i32 {
    const guest = guests.get(guest_handle) orelse return status(.no_such_handle);
    const transfer = Transfer.open(guest, fd) catch |reason| return failure(reason);
    return handleOf(transfers.open(transfer)) orelse {
        transfer.close();
        return status(.limit_reached);
    };
}

pub export fn transfer_close(handle: u32) i32 {
    const transfer = transfers.close(handle) orelse return status(.no_such_handle);
    transfer.close();
    return 0;
}

/// Reads the dirty log in `fd`, borrowed, from now on; offset and size are multiples of 8.
pub export fn transfer_set_log(handle: u32, fd: i32, offset: *const u64, size_bytes: *const u64) i32 {
    const transfer = transfers.get(handle) orelse return status(.no_such_handle);
    transfer.setLog(fd, offset.*, size_bytes.*) catch |reason| return failure(reason);
    return 0;
}

/// `pages` is a `GuestPages`.
pub export fn transfer_copy(handle: u32, pages: u32, counts: *abi.GuestCopy) i32 {
    const transfer = transfers.get(handle) orelse return status(.no_such_handle);
    const which = std.enums.fromInt(abi.GuestPages, pages) orelse return status(.invalid_argument);
    counts.* = transfer.copy(which);
    return 0;
}

/// Returns how many pages differ, and tells of some of them.
pub export fn transfer_compare(handle: u32, differences: [*]abi.GuestDifference, max: u32) i32 {
    const transfer = transfers.get(handle) orelse return status(.no_such_handle);
    return @intCast(transfer.compare(differences[0..max]));
}

// The machine.

/// A clock that all processes of the machine share, in nanoseconds.
pub export fn steady_clock(time_ns: *u64) i32 {
    time_ns.* = sys.nanoseconds();
    return 0;
}

/// Returns how long a cache line takes from one CPU to another, in nanoseconds; takes some milliseconds. `busy`:
/// somebody else had one of them all the time.
pub export fn core_distance(cpu: u32, other: u32) i32 {
    const distance_ns = core_distance_file.measure(cpu, other) catch |reason| return failure(reason);
    return @intCast(distance_ns);
}

/// Returns how long one CPU needs to copy a frame that another has written so much of, in picoseconds: buffers
/// and their order are those of rings of so many descriptors. Takes some milliseconds to a second. `busy`:
/// somebody else had one of the CPUs all the time.
pub export fn copy_floor(
    cpu: u32,
    other: u32,
    frame_bytes: u32,
    written_bytes: u32,
    buffer_bytes: u32,
    ring_size: u32,
) i32 {
    const taken_ps = copy_floor_file.measure(.{
        .cpu = cpu,
        .other = other,
        .frame_bytes = frame_bytes,
        .written_bytes = written_bytes,
        .buffer_bytes = buffer_bytes,
        .ring_size = ring_size,
    }) catch |reason| return failure(reason);
    return std.math.cast(i32, taken_ps) orelse std.math.maxInt(i32);
}

/// Halts a thread of another process, such as a child's, to count its instructions. This and the next two are for one
/// thread of ours.
pub export fn trace_begin(thread: i32) i32 {
    tracer.begin(thread) catch |reason| return failure(reason);
    return 0;
}

/// Lets it go on for so many steps, each some microseconds. Returns how many instructions these were: one that repeats
/// itself takes several.
pub export fn trace_step(thread: i32, steps: u32) i32 {
    return @intCast(tracer.step(thread, steps) catch |reason| return failure(reason));
}

pub export fn trace_end(thread: i32) i32 {
    tracer.end(thread) catch |reason| return failure(reason);
    return 0;
}

/// Reads a file of the kernel's, below /proc or /sys, as far as it fits. Returns how many bytes.
pub export fn system_file_read(path: [*]const u8, path_bytes: u32, bytes: [*]u8, bytes_max: u32) i32 {
    const count = system_file.read(path[0..path_bytes], bytes[0..bytes_max]) catch |reason| return failure(reason);
    return @intCast(count);
}

/// Opens a file of the kernel's to be mapped and written to, such as a BAR of a PCI device. Returns an fd.
pub export fn system_file_open(path: [*]const u8, path_bytes: u32) i32 {
    return system_file.open(path[0..path_bytes]) catch |reason| failure(reason);
}

/// The names in a directory of the kernel's, each followed by a line feed. Returns how many bytes.
pub export fn system_file_list(path: [*]const u8, path_bytes: u32, bytes: [*]u8, bytes_max: u32) i32 {
    const count = system_file.list(path[0..path_bytes], bytes[0..bytes_max]) catch |reason| return failure(reason);
    return @intCast(count);
}

// Helpers.

const PortPlace = struct { engine: *Engine, port: *Port };
const VringPlace = struct { engine: *Engine, port: *Port, vring: *Vring };

fn portOf(handle: u32, number: u32) ?PortPlace {
    const engine = engines.get(handle) orelse return null;
    if (number >= abi.ports_max) return null;
    return .{ .engine = engine, .port = engine.fabric.ports[number] orelse return null };
}

fn vringOf(handle: u32, number: u32, index: u32) ?VringPlace {
    const place = portOf(handle, number) orelse return null;
    if (index >= place.port.vrings.len) return null;
    return .{ .engine = place.engine, .port = place.port, .vring = &place.port.vrings[index] };
}

fn handleOf(handle: ?u32) ?i32 {
    return @intCast(handle orelse return null);
}

fn tokenOf(token: PumpError!u32) i32 {
    return @intCast(token catch |reason| return failure(reason));
}

fn kindOf(fd: i32) abi.FdKind {
    const info = sys.fileInfo(fd) catch return .closed;
    return switch (info.kind) {
        .regular => .file,
        .socket => .socket,
        .pipe => .pipe,
        .directory => .directory,
        .other => if (sys.isEventfd(fd)) .eventfd else .other,
    };
}

fn status(code: abi.Status) i32 {
    return @backingInt(code);
}

/// Every error that a module of ours can return: a new one does not compile until it has a status.
pub const Failure = @import("engine.zig").Error || PumpError || guest_file.Error;
const PumpError = @import("pump.zig").Error;

fn failure(reason: Failure) i32 {
    return status(switch (reason) {
        error.InvalidArgument => .invalid_argument,
        error.NoSuchHandle => .no_such_handle,
        error.LimitReached => .limit_reached,
        error.OutOfMemory => .out_of_memory,
        error.Unmapped => .unmapped,
        error.Misaligned => .misaligned,
        error.Overlap => .overlap,
        error.FileTooShort => .file_too_short,
        error.WrongFd => .wrong_fd,
        error.Busy => .busy,
        error.NotStarted => .not_started,
        error.AlreadyStarted => .already_started,
        error.Closed => .closed,
        error.Stuck => .stuck,
        error.System => return -1000 - @as(i32, sys.lastErrno()),
    });
}
