/**
 * A simulated guest's dirty log, as QEMU gives one to a back end.
 *
 * @module
 */
import { featureSet, type Frontend, type Guest } from "../mod.ts";

/** A bit stands for so much; a log is as many words of 64 bits as there must be. */
const pageBytes = 4096n;
const wordPages = 64n;
const wordBytes = 8n;

/** Bytes of a log that covers all of the guest's memory from address 0 on. */
export function logBytes(guest: Guest): bigint {
  const end = guest.regions.reduce((most, { gpa, size }) => gpa + size > most ? gpa + size : most, 0n);
  const unit = pageBytes * wordPages;
  return (end + unit - 1n) / unit * wordBytes;
}

/**
 * Begins or ends logging under running rings, once there is a log: features, then where each ring's writes are noted.
 * Throws what `Frontend` throws.
 *
 * @param features As negotiated, without LOG_ALL.
 */
export async function setLogging(frontend: Frontend, guest: Guest, features: bigint, wanted: boolean): Promise<void> {
  await frontend.setFeatures(wanted ? features | featureSet(["LOG_ALL"]) : features);
  for (let index = 0; index < 2 * guest.queuePairs; index++) {
    const { desc, avail, used, log = 0n } = guest.vring(index);
    const flags = wanted ? 1 : 0;
    await frontend.request("SET_VRING_ADDR", { index, flags, desc, used, avail, log: wanted ? log : 0n });
  }
}
