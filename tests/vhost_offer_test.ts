/** What a port offers, and how names mask it. */

import assert from "node:assert/strict";
import { makeOffer, offerNames } from "../vhost/offer.ts";
import {
  featureNames,
  featureSet,
  hasFeature,
  hasProtocolFeature,
  protocolFeatureNames,
  protocolFeatureSet,
} from "../vhost/spec.ts";

Deno.test("makeOffer() offers by default what the data plane can do", () => {
  const { features, protocolFeatures, queuePairs, mtu } = makeOffer();
  assert.equal(
    featureNames(features).join(" "),
    [
      "CSUM GUEST_CSUM MTU GUEST_TSO4 GUEST_TSO6 GUEST_ECN GUEST_UFO HOST_TSO4 HOST_TSO6 HOST_ECN HOST_UFO MRG_RXBUF",
      "GUEST_ANNOUNCE MQ LOG_ALL INDIRECT_DESC EVENT_IDX PROTOCOL_FEATURES VERSION_1 RING_PACKED IN_ORDER GUEST_USO4",
      "GUEST_USO6 HOST_USO",
    ].join(" "),
  );
  assert.equal(
    protocolFeatureNames(protocolFeatures).join(" "),
    "MQ LOG_SHMFD RARP REPLY_ACK NET_MTU BACKEND_REQ INFLIGHT_SHMFD RESET_DEVICE CONFIGURE_MEM_SLOTS STATUS",
  );
  assert.deepEqual([queuePairs, mtu], [1, undefined]);
});

Deno.test("makeOffer() never offers what QEMU would be misled by", () => {
  const { features, protocolFeatures } = makeOffer({ queuePairs: 4, mtu: 9000 });
  for (const name of ["RING_RESET", "ACCESS_PLATFORM", "CTRL_VQ", "MAC", "STATUS"] as const) {
    assert.ok(!hasFeature(features, name), name);
  }
  for (const name of ["CONFIG", "PAGEFAULT"] as const) {
    assert.ok(!hasProtocolFeature(protocolFeatures, name), name);
  }
});

Deno.test("makeOffer() is the same whatever the numbers, as a restarted back end must offer the same", () => {
  const plain = makeOffer();
  const other = makeOffer({ queuePairs: 128, mtu: 1500 });
  assert.equal(plain.features, other.features);
  assert.equal(plain.protocolFeatures, other.protocolFeatures);
});

Deno.test("makeOffer() withholds by name, and with a feature all that needs it", () => {
  const lost = (...withheld: string[]) =>
    featureNames(makeOffer().features & ~makeOffer({ withheld }).features).join(" ");
  assert.equal(lost("EVENT_IDX"), "EVENT_IDX");
  assert.equal(lost("CSUM"), "CSUM HOST_TSO4 HOST_TSO6 HOST_ECN HOST_UFO HOST_USO");
  assert.equal(lost("GUEST_CSUM"), "GUEST_CSUM GUEST_TSO4 GUEST_TSO6 GUEST_ECN GUEST_UFO GUEST_USO4 GUEST_USO6");
  assert.equal(lost("HOST_TSO4"), "HOST_TSO4");
  assert.equal(lost("HOST_TSO4", "HOST_TSO6"), "HOST_TSO4 HOST_TSO6 HOST_ECN");
  assert.equal(lost("VERSION_1"), "VERSION_1 RING_PACKED IN_ORDER GUEST_USO4 GUEST_USO6 HOST_USO");
});

Deno.test("makeOffer() withholds MQ whole: feature, protocol feature and pairs", () => {
  const offer = makeOffer({ queuePairs: 4, withheld: ["MQ"] });
  assert.ok(!hasFeature(offer.features, "MQ") && !hasProtocolFeature(offer.protocolFeatures, "MQ"));
  assert.equal(offer.queuePairs, 1);
  const none = makeOffer({ queuePairs: 4, withheld: ["PROTOCOL_FEATURES"] });
  assert.deepEqual([none.protocolFeatures, none.queuePairs, hasFeature(none.features, "MQ")], [0n, 1, false]);
  const alone = makeOffer({ withheld: ["STATUS"] });
  assert.equal(makeOffer().protocolFeatures & ~alone.protocolFeatures, protocolFeatureSet(["STATUS"]));
});

Deno.test("makeOffer() throws for unknown names and impossible numbers", () => {
  assert.throws(
    () => makeOffer({ withheld: ["EVENT_IX"] }),
    /Cannot withhold feature: EVENT_IX: give some of .*EVENT_IDX/,
  );
  for (const queuePairs of [0, 129, -1, 1.5, NaN]) {
    assert.throws(() => makeOffer({ queuePairs }), /Cannot offer queue pairs: .*: give 1 to 128/);
  }
  for (const mtu of [0, 67, 65536, 1.5]) {
    assert.throws(() => makeOffer({ mtu }), /Cannot offer MTU: .*: give 68 to 65535/);
  }
});

Deno.test("Every name on offer can be withheld", () => {
  for (const name of offerNames) {
    const { features, protocolFeatures } = makeOffer({ withheld: [name] });
    const names = [...featureNames(features), ...protocolFeatureNames(protocolFeatures)];
    assert.ok(!names.includes(name), name);
  }
});

Deno.test("Feature sets are told by name, unknown bits by number", () => {
  assert.deepEqual(featureNames(featureSet(["VERSION_1", "CSUM"]) | 1n << 45n), ["CSUM", "VERSION_1", "bit 45"]);
  assert.deepEqual(protocolFeatureNames(1n << 63n), ["bit 63"]);
  assert.deepEqual(featureNames(0n), []);
});
