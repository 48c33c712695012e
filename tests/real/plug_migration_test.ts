// Memory that comes and goes while a guest migrates. QEMU plugs none in then; what was asked to leave before may leave
// late, and the log becomes shorter under running rings.

import assert from "node:assert/strict";
import { LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { eventually } from "./process.ts";
import { Serve } from "./serve.ts";
import { copiesFile } from "./transfer.ts";

const plugged_mib = 128;
const file_mb = 5;
/** It shall not end by itself. */
const bytes_per_second = 100_000;
const dimm = { driver: "pc-dimm", id: "dimm0", memdev: "more" };
const patience_ms = 60_000;
const addresses = ["10.0.0.1", "10.0.0.2"] as const;
const memory_kib = "awk '/MemTotal/ { print $2 }' /proc/meminfo";

async function statusOf(guest: LinuxGuest): Promise<string> {
  return (await guest.qmp("query-migrate") as { status: string }).status;
}

/** To nowhere, so slowly that it is under way until it is cancelled. */
async function migrate(guest: LinuxGuest): Promise<void> {
  await guest.qmp("migrate-set-parameters", { "max-bandwidth": bytes_per_second });
  await guest.qmp("migrate", { uri: "exec:cat >/dev/null" });
  await eventually("migration is under way", patience_ms, async () => {
    return await statusOf(guest) === "active" || undefined;
  });
}

async function cancel(guest: LinuxGuest): Promise<void> {
  assert.equal(await statusOf(guest), "active");
  await guest.qmp("migrate_cancel");
  await eventually("migration is cancelled", patience_ms, async () => {
    return await statusOf(guest) === "cancelled" || undefined;
  });
}

async function plugs(guest: LinuxGuest): Promise<void> {
  const before_kib = Number(await guest.run(memory_kib));
  await guest.qmp("device_add", dimm);
  await guest.until(`[ $(${memory_kib}) -gt ${before_kib + plugged_mib * 1000} ]`);
}

realTest("memory is plugged into and out of a guest that migrates", ["linux"], async () => {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  await using serve = await Serve.start("--ports", "2", "--dir", folder.path);
  const guests = await bootBoth(folder.guest(0), folder.guest(1));
  await using left = guests[0];
  await using right = guests[1];
  for (const [index, guest] of guests.entries()) await guest.setAddress(`${addresses[index]}/24`);
  await right.run("echo online_movable >/sys/devices/system/memory/auto_online_blocks");
  const memory = { "qom-type": "memory-backend-memfd", id: "more", size: plugged_mib << 20, share: true };
  await right.qmp("object-add", memory);
  await migrate(right);
  await assert.rejects(right.qmp("device_add", dimm), /device_add not allowed while migrating/);
  await cancel(right);
  await plugs(right);
  await copiesFile(left, right, addresses[1], file_mb);
  // The guest has to empty the memory first: the migration begins before it has.
  await right.run("dd if=/dev/zero of=/tmp/full bs=1M count=100 2>/dev/null");
  await right.qmp("device_del", { id: dimm.id });
  await migrate(right);
  const plugged = (await right.qmp("query-memory-devices") as unknown[]).length;
  console.error(`DIMMs when the migration began: ${plugged}`);
  await eventually("the memory is out", patience_ms, async () => {
    return (await right.qmp("query-memory-devices") as unknown[]).length === 0 || undefined;
  });
  await copiesFile(left, right, addresses[1], file_mb);
  await copiesFile(right, left, addresses[0], file_mb);
  await cancel(right);
  await copiesFile(left, right, addresses[1], file_mb);
  const rejected = serve.records.filter(({ event }) => event === "nack" || event === "ring_broken");
  assert.deepEqual(rejected, []);
  await right.close();
  await left.close();
  await serve.finish();
});
