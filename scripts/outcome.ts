/** What a test program said, turned into counts and names. */

export interface Tally {
  passed: number;
  failed: number;
  /** What failed, as far as it has a name. */
  failures: string[];
  /** Names of tests that did not run. */
  left_out: string[];
}

export const nothing: Tally = { passed: 0, failed: 0, failures: [], left_out: [] };

export function sum(tallies: Tally[]): Tally {
  return {
    passed: tallies.reduce((total, tally) => total + tally.passed, 0),
    failed: tallies.reduce((total, tally) => total + tally.failed, 0),
    failures: tallies.flatMap((tally) => tally.failures),
    left_out: tallies.flatMap((tally) => tally.left_out),
  };
}

/** A step that either works or does not counts as nothing or as one failure. */
export function step(ok: boolean, name: string): Tally {
  return ok ? nothing : { ...nothing, failed: 1, failures: [name] };
}

/**
 * Zig's runner ends with `All 7 tests passed.` or `5 passed; 1 skipped; 1 failed.`;
 * sources that do not compile, and a test that crashes, leave neither.
 */
export function zigTally(code: number, text: string): Tally {
  const all = text.match(/All (\d+) tests? passed/);
  const some = text.match(/(\d+) passed; \d+ skipped; (\d+) failed/);
  const failed = Number(some?.[2] ?? 0);
  const counted = all !== null || some !== null;
  return {
    passed: Number(all?.[1] ?? some?.[1] ?? 0),
    failed: failed === 0 && (code !== 0 || !counted) ? 1 : failed,
    failures: [...text.matchAll(/^\d+\/\d+ (.+)\.\.\.FAIL/gm)].map((match) => match[1] ?? ""),
    left_out: [...text.matchAll(/^\d+\/\d+ (.+)\.\.\.SKIP/gm)].map((match) => match[1] ?? ""),
  };
}

function unescapeXml(text: string): string {
  const names: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  return text.replaceAll(/&(lt|gt|quot|apos|amp);/g, (_, name: string) => names[name] ?? "");
}

/** Deno's closing line counts tests; its JUnit report, which counts steps too, names those that were ignored. */
export function denoTally(code: number, text: string, report: string): Tally {
  const counts = [...text.matchAll(/^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/gm)].at(-1);
  const failed = Number(counts?.[2] ?? 0);
  const ignored = [...report.matchAll(/<testcase name="([^"]*)"[^>]*>\s*<skipped\/>/g)];
  return {
    passed: Number(counts?.[1] ?? 0),
    failed: failed === 0 && (code !== 0 || counts === undefined) ? 1 : failed,
    failures: [...new Set(text.matchAll(/^.+ => \.\/tests\/\S+:\d+:\d+$/gm).map((match) => match[0]))],
    left_out: ignored.map((match) => unescapeXml(match[1] ?? "")),
  };
}
