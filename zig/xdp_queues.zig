//! Queues of an interface by AF_XDP: what they receive before the host's stack has it, and frames sent without that
//! (Linux, Documentation/networking/af_xdp.rst). XDP knows no offloads: what is left to do with a frame we do.

const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const interface = @import("interface.zig");
const sys = @import("sys.zig");
const umem_file = @import("umem.zig");
const XdpProgram = @import("xdp_program.zig").XdpProgram;
const XdpSocket = @import("xdp_socket.zig").XdpSocket;

/// The first queues of one interface.
pub const XdpQueues = struct {
    sockets: [abi.queue_pairs_max]*XdpSocket,
    queue_pairs: u32,
    program: ?XdpProgram,
    /// A packet socket that takes nothing in, but by which the interface hears all.
    listener: i32,

    /// Fills in what is found, and at a failure the step.
    pub fn open(queues: *XdpQueues, config: *abi.Uplink) error{ OutOfMemory, System }!void {
        queues.* = .{ .sockets = undefined, .queue_pairs = 0, .program = null, .listener = -1 };
        errdefer queues.close();
        config.step = .device;
        queues.listener = try sys.packetSocket();
        config.step = .attach;
        const index = try interface.indexOf(config.name);
        try interface.hearAll(queues.listener, index);
        config.step = .mtu;
        try interface.setMtu(config);
        const is_long = config.mtu + burst_file.plain_overhead_bytes > umem_file.receive_bytes_max;
        const takes_pieces = sys.kernelIsAtLeast(6, 6);
        if (is_long and !takes_pieces) return sys.fail(sys.errno_too_long);
        queues.program = try .open(index, config.queue_pairs, is_long, &config.step);
        while (queues.queue_pairs < config.queue_pairs) {
            const queue = queues.queue_pairs;
            queues.sockets[queue] = try .open(.{
                .index = index,
                .queue = queue,
                .in_pieces = queues.program.?.in_pieces and takes_pieces,
                .copies = config.copy != 0,
            }, &config.step);
            queues.queue_pairs += 1;
            try queues.program.?.lead(queue, queues.sockets[queue].fd);
        }
        config.step = .up;
        config.up = @intFromBool(try interface.isUp(config.name));
        config.step = .none;
    }

    /// What another process needs that is to go on with it: for each queue a socket, then for each its memory, then
    /// what keeps the program, and the listener.
    pub fn fdCount(queue_pairs: u32) u32 {
        return 2 * queue_pairs + 3;
    }

    /// One of them, still ours.
    pub fn fdOf(queues: *const XdpQueues, number: usize) i32 {
        const pairs = queues.queue_pairs;
        if (number < pairs) return queues.sockets[number].fd;
        if (number < 2 * pairs) return queues.sockets[number - pairs].umem.fd;
        return switch (number - 2 * pairs) {
            0 => queues.program.?.link,
            1 => queues.program.?.map,
            2 => queues.listener,
            else => unreachable,
        };
    }

    /// Goes on with them, which are the caller's until it succeeds.
    pub fn adopt(
        queues: *XdpQueues,
        in_pieces: bool,
        fds: []const i32,
    ) error{ InvalidArgument, OutOfMemory, System }!void {
        const pairs = (fds.len - 3) / 2;
        const rest = fds[2 * pairs ..];
        queues.* = .{
            .sockets = undefined,
            .queue_pairs = 0,
            .program = .{ .link = rest[0], .map = rest[1], .in_pieces = in_pieces },
            .listener = rest[2],
        };
        errdefer queues.forget();
        while (queues.queue_pairs < pairs) : (queues.queue_pairs += 1) {
            const queue = queues.queue_pairs;
            queues.sockets[queue] = try .adopt(fds[queue], fds[pairs + queue], in_pieces);
        }
    }

    /// Leaves its descriptors to the caller.
    pub fn forget(queues: *XdpQueues) void {
        for (queues.sockets[0..queues.queue_pairs]) |socket| socket.forget();
        queues.queue_pairs = 0;
    }

    /// The interface is as before, but for an MTU that was asked for: that is its `Uplink`'s to restore.
    pub fn close(queues: *XdpQueues) void {
        if (queues.program) |program| program.close();
        queues.program = null;
        for (queues.sockets[0..queues.queue_pairs]) |socket| socket.leave(.opener);
        queues.queue_pairs = 0;
        if (queues.listener >= 0) sys.close(queues.listener);
        queues.listener = -1;
    }
};
