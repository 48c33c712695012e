//! Makes the one file, when it is built: compresses the runtime, which takes a while and is kept, and puts
//! the pieces behind the launcher. The same pieces make the same file.

const std = @import("std");
const lz4 = @import("launcher_lz4.zig");
const payload = @import("launcher_payload.zig");

const usage =
    \\Usage: launcher_pack compress FILE OUTPUT
    \\       launcher_pack assemble OUTPUT LAUNCHER RUNTIME.lz4 APPLICATION LIBRARY... -- ARGUMENT...
    \\
    \\The libraries are the builds of libvring for each level, lowest first. The arguments are what the runtime
    \\is started with; {library} and {application} stand for the paths of these.
    \\
;

const Fault = error{
    Usage,
    WrongLibraryCount,
    ArgumentsTooLong,
};

pub fn main(init: std.process.Init) !u8 {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const tool: Tool = .{ .io = init.io, .allocator = init.arena.allocator() };
    tool.run(arguments[1..]) catch |err| {
        switch (err) {
            error.Usage => {
                std.debug.print("{s}", .{usage});
                return 2;
            },
            error.WrongLibraryCount => std.debug.print("launcher_pack: wrong number of libraries: {d} are needed\n", .{
                payload.level_count,
            }),
            error.ArgumentsTooLong => std.debug.print("launcher_pack: arguments too long: {d} bytes are the limit\n", .{
                payload.arguments_bytes_max,
            }),
            else => return err,
        }
        return 1;
    };
    return 0;
}

const Tool = struct {
    io: std.Io,
    allocator: std.mem.Allocator,

    fn run(tool: *const Tool, arguments: []const [:0]const u8) !void {
        if (arguments.len == 3 and std.mem.eql(u8, arguments[0], "compress")) {
            const frame = try lz4.encode(tool.allocator, try tool.read(arguments[1]));
            return tool.write(arguments[2], frame);
        }
        if (arguments.len < 5 or !std.mem.eql(u8, arguments[0], "assemble")) return error.Usage;
        const files, const template = for (arguments, 0..) |argument, index| {
            if (std.mem.eql(u8, argument, "--")) break .{ arguments[0..index], arguments[index + 1 ..] };
        } else return error.Usage;
        if (files.len != 5 + payload.level_count) return error.WrongLibraryCount;
        return tool.assemble(files[1], files[2], files[3], files[4..], template);
    }

    fn assemble(
        tool: *const Tool,
        output: []const u8,
        launcher: []const u8,
        runtime: []const u8,
        application_and_libraries: []const [:0]const u8,
        template: []const [:0]const u8,
    ) !void {
        var file: std.ArrayList(u8) = .empty;
        try file.appendSlice(tool.allocator, try tool.read(launcher));
        var footer = std.mem.zeroes(payload.Footer);
        footer.runtime = try tool.append(&file, try tool.read(runtime));
        for (application_and_libraries, 0..) |path, index| {
            const section = try tool.append(&file, try lz4.encode(tool.allocator, try tool.read(path)));
            if (index == 0) footer.application = section else footer.libraries[index - 1] = section;
        }
        try setArguments(&footer, template);
        var build: std.crypto.hash.Blake3 = .init(.{});
        build.update(file.items);
        build.update(std.mem.asBytes(&footer));
        build.final(&footer.build);
        footer.seal();
        try file.appendSlice(tool.allocator, std.mem.asBytes(&footer));
        return tool.write(output, file.items);
    }

    /// Appends a frame, and reads it once for what the footer must say of it.
    fn append(tool: *const Tool, file: *std.ArrayList(u8), frame: []const u8) !payload.Section {
        const buffer = try tool.allocator.create([lz4.buffer_bytes]u8);
        var hash: payload.Hash = .init(0);
        var bytes: u64 = 0;
        var reader: lz4.Reader = try .init(frame);
        while (try reader.next(buffer)) |block| {
            hash.update(block);
            bytes += block.len;
        }
        const offset = file.items.len;
        try file.appendSlice(tool.allocator, frame);
        return .{ .offset = offset, .frame_bytes = frame.len, .bytes = bytes, .hash = hash.final() };
    }

    fn read(tool: *const Tool, path: []const u8) ![]u8 {
        return std.Io.Dir.cwd().readFileAlloc(tool.io, path, tool.allocator, .unlimited) catch |err| {
            std.debug.print("launcher_pack: {s}: {t}\n", .{ path, err });
            return err;
        };
    }

    fn write(tool: *const Tool, path: []const u8, bytes: []const u8) !void {
        return std.Io.Dir.cwd().writeFile(tool.io, .{ .sub_path = path, .data = bytes });
    }
};

fn setArguments(footer: *payload.Footer, template: []const [:0]const u8) Fault!void {
    var used: usize = 0;
    for (template) |argument| {
        const whole = argument[0 .. argument.len + 1];
        if (whole.len > footer.arguments.len - used) return error.ArgumentsTooLong;
        @memcpy(footer.arguments[used..][0..whole.len], whole);
        used += whole.len;
    }
    footer.arguments_bytes = used;
}
