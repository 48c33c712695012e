//! The XDP program that leads what queues of an interface receive to AF_XDP sockets. It goes with the fd of its link,
//! whoever closes that (Linux, Documentation/networking/af_xdp.rst; bpf(2)).

const std = @import("std");
const abi = @import("abi.zig");
const sys = @import("sys.zig");

const command = struct {
    const map_create = 0;
    const map_update = 2;
    const program_load = 5;
    const link_create = 28;
};

const map_type_sockets = 17;
const program_type_xdp = 6;
const attach_type_xdp = 37;
/// The program takes packets in several pieces: Linux 5.18 and later.
const program_flag_pieces = 1 << 5;

/// Where it runs: in general code, on packets as the stack has them; or in the driver, before that.
const Mode = enum(u32) { general = 1 << 1, native = 1 << 2 };

const Attempt = struct { mode: Mode, in_pieces: bool };

/// A driver whose buffers do not hold the longest packet takes only a program that knows of pieces: a veth minds what
/// its peer may send.
const attempts = [_]Attempt{
    .{ .mode = .native, .in_pieces = false },
    .{ .mode = .native, .in_pieces = true },
    .{ .mode = .general, .in_pieces = false },
};

const attempts_in_pieces = [_]Attempt{
    .{ .mode = .native, .in_pieces = true },
    .{ .mode = .general, .in_pieces = true },
};

/// struct bpf_insn.
const Instruction = extern struct {
    code: u8,
    /// The source is in the upper half.
    registers: u8 = 0,
    offset: i16 = 0,
    immediate: i32 = 0,
};

/// `return bpf_redirect_map(&map, packet->rx_queue_index, XDP_PASS);`
fn instructions(map: i32) [6]Instruction {
    const pass = 2;
    const redirect_map = 51;
    return .{
        // r2 = *(u32 *)(r1 + 16)
        .{ .code = 0x61, .registers = 0x12, .offset = 16 },
        // r1 = map, in 64 bits
        .{ .code = 0x18, .registers = 0x11, .immediate = map },
        .{ .code = 0 },
        // r3 = XDP_PASS: what comes to a queue without a socket goes on into the host's stack
        .{ .code = 0xb7, .registers = 0x03, .immediate = pass },
        .{ .code = 0x85, .immediate = redirect_map },
        .{ .code = 0x95 },
    };
}

// Parts of union bpf_attr; what is behind them is zero.

const MapCreate = extern struct { type: u32, key_bytes: u32, value_bytes: u32, entries: u32 };

const MapUpdate = extern struct { map: i32, padding: u32 = 0, key: u64, value: u64, flags: u64 = 0 };

const ProgramLoad = extern struct {
    type: u32,
    instructions: u32,
    first: u64,
    license: u64,
    log_level: u32 = 0,
    log_bytes: u32 = 0,
    log: u64 = 0,
    kernel_version: u32 = 0,
    flags: u32,
};

const LinkCreate = extern struct { program: i32, index: i32, attach_type: u32, flags: u32 };

pub const XdpProgram = struct {
    map: i32,
    link: i32,
    /// A packet may be longer than a buffer.
    in_pieces: bool,

    /// Attaches it to an interface, for so many of its queues. At a failure `step` has the step.
    pub fn open(index: i32, queues: u32, in_pieces: bool, step: *abi.UplinkStep) sys.Error!XdpProgram {
        step.* = .program;
        const map = try sys.bpf(command.map_create, std.mem.asBytes(&MapCreate{
            .type = map_type_sockets,
            .key_bytes = 4,
            .value_bytes = 4,
            .entries = queues,
        }));
        errdefer sys.close(map);
        var result: sys.Error!void = {};
        for (if (in_pieces) @as([]const Attempt, &attempts_in_pieces) else &attempts) |attempt| {
            const link = attach(index, map, attempt, step) catch |reason| {
                result = reason;
                // Another program is there, or we may not: it would be no better in another way.
                switch (sys.lastErrno()) {
                    sys.errno_busy, sys.errno_exists, sys.errno_not_permitted => break,
                    else => continue,
                }
            };
            return .{ .map = map, .link = link, .in_pieces = attempt.in_pieces };
        }
        try result;
        unreachable;
    }

    fn attach(index: i32, map: i32, attempt: Attempt, step: *abi.UplinkStep) sys.Error!i32 {
        step.* = .program;
        const code = instructions(map);
        const program = try sys.bpf(command.program_load, std.mem.asBytes(&ProgramLoad{
            .type = program_type_xdp,
            .instructions = code.len,
            .first = @intFromPtr(&code),
            .license = @intFromPtr(""),
            .flags = if (attempt.in_pieces) program_flag_pieces else 0,
        }));
        // The link has it.
        defer sys.close(program);
        step.* = .link;
        return sys.bpf(command.link_create, std.mem.asBytes(&LinkCreate{
            .program = program,
            .index = index,
            .attach_type = attach_type_xdp,
            .flags = @backingInt(attempt.mode),
        }));
    }

    /// What comes to a queue is this socket's from now on.
    pub fn lead(program: XdpProgram, queue: u32, socket: i32) sys.Error!void {
        _ = try sys.bpf(command.map_update, std.mem.asBytes(&MapUpdate{
            .map = program.map,
            .key = @intFromPtr(&queue),
            .value = @intFromPtr(&socket),
        }));
    }

    pub fn close(program: XdpProgram) void {
        sys.close(program.link);
        sys.close(program.map);
    }
};

comptime {
    std.debug.assert(@sizeOf(Instruction) == 8);
    std.debug.assert(@sizeOf(ProgramLoad) == 48);
}
