//! The functions that cross to TypeScript: each checks its arguments, calls, and maps errors to a
//! status. `manifest.zig` reflects over this file and writes `ffi/abi.gen.ts`.
//!
//! Unless noted, a call is for the control thread, returns `>= 0` or a `Status`, and borrows every
//! buffer for the time of the call.

const std = @import("std");
const abi = @import("abi.zig");
const Engine = @import("engine.zig").Engine;
const Handles = @import("handles.zig").Handles;
const Port = @import("port.zig").Port;
const sys = @import("sys.zig");
const Vring = @import("vring.zig").Vring;

/// Calls that may wait: TypeScript makes them on a thread of their own.
pub const blocking = .{"engine_close"};

var engines: Handles(Engine, abi.engines_max) = .{};

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
    place.engine.setVringFd(place.port, place.vring, which, fd) catch |reason| return failure(reason);
    return 0;
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

fn status(code: abi.Status) i32 {
    return @backingInt(code);
}

/// Every error that a module of ours can return: a new one does not compile until it has a status.
pub const Failure = @import("engine.zig").Error;

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
        error.NotStarted => .not_started,
        error.AlreadyStarted => .already_started,
        error.Stuck => .stuck,
        error.System => return -1000 - @as(i32, sys.lastErrno()),
    });
}
