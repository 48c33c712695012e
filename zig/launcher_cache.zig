//! Where unpacked files wait for the next start: one directory per user, in it an entry per build. Only what
//! its owner alone can have written is used.
//!
//! An entry is in use while someone holds a shared lock on it: who starts from it takes one, and Deno
//! inherits it. Who removes an entry needs the exclusive one. Who unpacks holds the lock of the whole cache,
//! so that of many that start at once one works and the others wait; where locks do not work, each unpacks
//! for itself, and the last rename wins.

const std = @import("std");
const file = @import("launcher_file.zig");
const lz4 = @import("launcher_lz4.zig");
const payload = @import("launcher_payload.zig");

const Fd = file.Fd;
const Payload = payload.Payload;

pub const Error = error{
    /// It belongs to someone else.
    Foreign,
    /// Others may write to it.
    Shared,
    /// No program may be executed there.
    NoExec,
} || file.Error || payload.Error;

/// One file of an entry.
pub const Part = struct {
    name: [:0]const u8,
    section: *const payload.Section,
    executable: bool,

    fn mode(part: Part) u16 {
        return if (part.executable) 0o500 else 0o400;
    }

    /// Unpacked files get this time of last change, made from their hash: one written to since has another.
    fn mark(part: Part) i64 {
        const first = 1_000_000_000;
        return first + @as(i64, @intCast(part.section.hash % 500_000_000));
    }
};

const build_bytes = 16;
/// An entry is called by its build, in hexadecimal.
const EntryName = Hexadecimal(build_bytes);
/// This build and those before it, by when they were last used.
const entries_kept = 3;
const temporary_prefix = ".new-";

/// Unpacking takes a fraction of a second; whoever takes longer is not waited for.
const wait_step_ms = 5;
const wait_steps_max = 600;

pub const Cache = struct {
    root: Fd,
    /// Holds the shared lock.
    entry: Fd,
    name: EntryName,

    /// Opens the entry of `build`, and makes what is missing on the way to it.
    pub fn open(path: [:0]const u8, build: [build_bytes]u8) Error!Cache {
        file.makeDirectories(path);
        const root = try file.openDirectory(file.here, path);
        errdefer file.close(root);
        try checkOwner(root, 0o022);
        if (!file.mayExecute(root)) return error.NoExec;
        const name = hexadecimal(&build);
        return .{ .root = root, .entry = try openEntry(root, &name), .name = name };
    }

    pub fn close(cache: *const Cache) void {
        file.close(cache.entry);
        file.close(cache.root);
    }

    /// Sees to it that the entry holds `parts`, whole and unchanged.
    pub fn provide(cache: *const Cache, source: *const Payload, parts: []const Part) Error!void {
        file.touch(cache.entry);
        if (cache.holds(parts)) return;
        const alone = cache.awaitTurn(parts);
        if (cache.holds(parts)) return;
        if (alone) cache.removeLeftovers();
        for (parts) |part| if (!cache.holds(&.{part})) try cache.unpackPart(source, part);
        cache.prune();
    }

    fn holds(cache: *const Cache, parts: []const Part) bool {
        for (parts) |part| {
            const fd = file.openFile(cache.entry, part.name) catch return false;
            defer file.close(fd);
            const found = file.info(fd) catch return false;
            if (found.kind != .file or found.owner != file.effectiveUser() or found.mode != part.mode()) return false;
            if (found.bytes != part.section.bytes or found.modified_seconds != part.mark()) return false;
        }
        return true;
    }

    /// Waits for the lock of the cache, or until another has done the work. True when the lock is held, until
    /// the end of this process or of its `root`.
    fn awaitTurn(cache: *const Cache, parts: []const Part) bool {
        for (0..wait_steps_max) |_| {
            if (file.lock(cache.root, .exclusive)) |_| return true else |err| if (err != error.Busy) return false;
            file.sleepMilliseconds(wait_step_ms);
            if (cache.holds(parts)) return false;
        }
        return false;
    }

    /// Files that someone who was killed was unpacking.
    fn removeLeftovers(cache: *const Cache) void {
        const directory = file.openDirectory(cache.entry, ".") catch return;
        defer file.close(directory);
        var names: file.Names = .{ .directory = directory };
        while (names.next() catch null) |name| {
            if (std.mem.startsWith(u8, name, temporary_prefix)) file.remove(cache.entry, name) catch {};
        }
    }

    fn unpackPart(cache: *const Cache, source: *const Payload, part: Part) Error!void {
        var random: [8]u8 = undefined;
        file.randomBytes(&random);
        const temporary = temporary_prefix.* ++ hexadecimal(&random);
        const fd = try file.createFile(cache.entry, &temporary);
        errdefer file.remove(cache.entry, &temporary) catch {};
        {
            // Closed before anyone can find it: a file that is open for writing cannot be executed.
            defer file.close(fd);
            try unpack(source, part.section, fd);
            try file.setMode(fd, part.mode());
            try file.setModified(fd, part.mark());
            // Else a loss of power could leave a file of the right size and time without its content.
            try file.sync(fd);
        }
        try file.rename(cache.entry, &temporary, part.name);
    }

    /// Removes the entries of other builds but for the few last used, and those in use.
    fn prune(cache: *const Cache) void {
        const directory = file.openDirectory(cache.root, ".") catch return;
        defer file.close(directory);
        var others: [64]Other = undefined;
        const count = cache.findOthers(directory, &others);
        std.mem.sort(Other, others[0..count], {}, Other.newer);
        for (others[@min(entries_kept - 1, count)..count]) |*other| removeUnused(directory, &other.name);
    }

    const Other = struct {
        name: EntryName,
        used_seconds: i64,

        fn newer(_: void, first: Other, second: Other) bool {
            return first.used_seconds > second.used_seconds;
        }
    };

    fn findOthers(cache: *const Cache, directory: Fd, others: []Other) usize {
        var count: usize = 0;
        var names: file.Names = .{ .directory = directory };
        while (names.next() catch null) |name| {
            if (count == others.len) break;
            if (!isEntryName(name) or std.mem.eql(u8, name, &cache.name)) continue;
            const found = file.infoOf(directory, name) catch continue;
            others[count] = .{ .name = undefined, .used_seconds = found.modified_seconds };
            others[count].name[0..].* = name[0 .. 2 * build_bytes :0].*;
            count += 1;
        }
        return count;
    }
};

fn Hexadecimal(comptime bytes: usize) type {
    return [2 * bytes:0]u8;
}

fn hexadecimal(bytes: anytype) Hexadecimal(bytes.len) {
    var text: Hexadecimal(bytes.len) = @splat(0);
    @memcpy(&text, &std.fmt.bytesToHex(bytes, .lower));
    return text;
}

fn isEntryName(name: []const u8) bool {
    if (name.len != 2 * build_bytes) return false;
    for (name) |byte| if (!std.ascii.isDigit(byte) and (byte < 'a' or byte > 'f')) return false;
    return true;
}

fn removeUnused(root: Fd, name: *const EntryName) void {
    const entry = file.openDirectory(root, name) catch return;
    defer file.close(entry);
    file.lock(entry, .exclusive) catch return;
    const depth_max = 16;
    file.removeTree(root, name, depth_max);
}

fn checkOwner(directory: Fd, forbidden: u16) Error!void {
    const found = try file.info(directory);
    if (found.owner != file.effectiveUser()) return error.Foreign;
    if (found.mode & forbidden != 0) return error.Shared;
}

/// The entry may vanish between opening and locking: then another is made.
fn openEntry(root: Fd, name: *const EntryName) Error!Fd {
    const attempts_max = 200;
    for (0..attempts_max) |_| {
        file.makeDirectory(root, name);
        const entry = try file.openDirectory(root, name);
        if (lockEntry(root, name, entry)) |_| return entry else |err| {
            file.close(entry);
            if (err != error.Busy and err != error.Absent) return err;
        }
        file.sleepMilliseconds(wait_step_ms);
    }
    return error.Busy;
}

fn lockEntry(root: Fd, name: *const EntryName, entry: Fd) Error!void {
    try checkOwner(entry, 0o077);
    // Where there are no locks, nobody gets the exclusive one that removing needs.
    file.lock(entry, .shared) catch |err| if (err == error.Busy) return err;
    const found = try file.infoOf(root, name);
    if (found.inode != (try file.info(entry)).inode) return error.Absent;
}

/// Writes the content of a section, block by block, and checks it on the way.
pub fn unpack(source: *const Payload, section: *const payload.Section, fd: Fd) Error!void {
    const Buffer = struct {
        var bytes: [lz4.buffer_bytes]u8 = undefined;
    };
    var content = try source.content(section);
    while (try content.next(&Buffer.bytes)) |block| try file.writeAll(fd, block);
}
