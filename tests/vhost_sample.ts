/** A well-formed payload for each request of a front end. */

import type { PayloadOf, RequestName } from "../vhost/request.ts";
import { addressOf, ram } from "./vhost_peer.ts";

export type FrontendRequestName = Exclude<RequestName, `BACKEND_${string}`>;

const ring = { index: 1, num: 1 };
const inflight = { mmapSize: 0x8000n, mmapOffset: 0n, queueCount: 2, queueSize: 256 };
const config = { offset: 0, size: 2, flags: 0, bytes: Uint8Array.of(1, 2) };
const bytes = Uint8Array.from({ length: 16 }, (_, i) => i);

export const samples: { readonly [N in FrontendRequestName]: PayloadOf<N> } = {
  GET_FEATURES: null,
  SET_FEATURES: 1n << 32n,
  SET_OWNER: null,
  RESET_OWNER: null,
  SET_MEM_TABLE: [ram],
  SET_LOG_BASE: { size: 0x2000n, offset: 0n },
  SET_LOG_FD: null,
  SET_VRING_NUM: { index: 1, num: 256 },
  SET_VRING_ADDR: addressOf(1),
  SET_VRING_BASE: ring,
  GET_VRING_BASE: { index: 1, num: 0 },
  SET_VRING_KICK: 1n,
  SET_VRING_CALL: 1n,
  SET_VRING_ERR: 1n,
  GET_PROTOCOL_FEATURES: null,
  SET_PROTOCOL_FEATURES: 1n << 3n,
  GET_QUEUE_NUM: null,
  SET_VRING_ENABLE: ring,
  SEND_RARP: 0x5634_1200_5452n,
  NET_SET_MTU: 1500n,
  SET_BACKEND_REQ_FD: null,
  IOTLB_MSG: { iova: 0xffff_f000n, size: 4096n, userAddress: ram.userAddress, permission: 3, type: 2 },
  SET_VRING_ENDIAN: ring,
  GET_CONFIG: config,
  SET_CONFIG: config,
  CREATE_CRYPTO_SESSION: bytes,
  CLOSE_CRYPTO_SESSION: 1n,
  POSTCOPY_ADVISE: null,
  POSTCOPY_LISTEN: null,
  POSTCOPY_END: null,
  GET_INFLIGHT_FD: inflight,
  SET_INFLIGHT_FD: inflight,
  GPU_SET_SOCKET: null,
  RESET_DEVICE: null,
  VRING_KICK: { index: 1, num: 0 },
  GET_MAX_MEM_SLOTS: null,
  ADD_MEM_REG: ram,
  REM_MEM_REG: ram,
  SET_STATUS: 0xfn,
  GET_STATUS: null,
  GET_SHARED_OBJECT: bytes,
  SET_DEVICE_STATE_FD: { direction: 0, phase: 0 },
  CHECK_DEVICE_STATE: null,
  GET_SHMEM_CONFIG: null,
};
