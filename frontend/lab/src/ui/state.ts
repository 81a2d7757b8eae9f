/**
 * What happened to the connections in, what is to be shown out.
 *
 * A pure function over a plain record: it knows time only as an argument, in seconds, and nothing of
 * JupyterLab. It decides which notices there are (at most one of a topic, however many paths it concerns),
 * when they end, and what one word describes the whole. Sentences are made elsewhere (words.ts).
 */

import type { Cause, Closed, ConnectionEvent } from 'jupyter-token-ws';

/** What a notice is about. */
export type Topic =
  /** No credential of the page is accepted any more. */
  | 'signed_out'
  /** What the page wants is on another server. */
  | 'other_server'
  /** Kernels that documents of this page used are gone. */
  | 'gone'
  /** Terminals are gone. */
  | 'ended'
  /** Refused for good, for another reason. */
  | 'stopped'
  /** The browser does not even try. */
  | 'not_attempted'
  /** Plain requests get through, websockets do not. */
  | 'blocked'
  /** Nothing answers. */
  | 'down'
  /** The server wants us to wait. */
  | 'waiting'
  /** Output is missing. */
  | 'cut';

/** What a path was last heard of. */
export interface Line {
  readonly state: 'open' | 'parked' | 'waiting' | 'unexplained';
  /** How many sockets to it are open. */
  readonly open: number;
  readonly closed: Closed | null;
  readonly cause: Cause | null;
  /** When this began. */
  readonly since: number;
  /** When a waiting path connects again. */
  readonly until: number;
}

/** A kernel or terminal that is gone although something of this page used it. */
export interface Lost {
  readonly topic: 'gone' | 'ended';
  /** What used it, by the name that the user knows; may be empty. */
  readonly name: string;
  /** Whether a new one can be started in its place. */
  readonly replaceable: boolean;
}

export interface State {
  readonly lines: ReadonlyMap<string, Line>;
  readonly lost: ReadonlyMap<string, Lost>;
  /** Whether output was cut since this was last read. */
  readonly cut: boolean;
  /** Whether the server knows us by plain requests; `null` where that was not asked. */
  readonly known: boolean | null;
  /** What the user put away: silent until it is over. */
  readonly muted: ReadonlySet<Topic>;
}

export type Input =
  | ConnectionEvent
  /** Whether the server knows us was asked by a plain request. */
  | { readonly kind: 'known'; readonly known: boolean | null }
  /** Plain requests reach the server again. */
  | { readonly kind: 'reached' }
  /** The user put a notice away. */
  | { readonly kind: 'dismissed'; readonly topic: Topic }
  /** Somebody looks after this path: what used it lost it. */
  | { readonly kind: 'lost'; readonly path: string; readonly lost: Lost }
  /** Nobody needs this path any more. */
  | { readonly kind: 'settled'; readonly path: string };

export interface Notice {
  readonly topic: Topic;
  /** How many paths it concerns. */
  readonly count: number;
  /** The names of what is lost, as far as known. */
  readonly names: readonly string[];
  /** Whether new kernels can be started. */
  readonly replaceable: boolean;
  /** The reason, where the sentence needs it. */
  readonly closed: Closed | null;
  /** Whole seconds to wait. */
  readonly seconds: number;
  /** Whether the wait is so long that the user may want to end it. */
  readonly long: boolean;
}

/** The whole in one word: what is worst. */
export type Word = Exclude<Topic, 'cut' | 'ended'> | 'connecting' | 'connected' | 'idle';

export interface View {
  readonly word: Word;
  /** At most one of a topic. */
  readonly notices: readonly Notice[];
  /** The same, with those that the user has put away. */
  readonly holding: readonly Notice[];
  /** When this changes by time alone; `null` for never. */
  readonly next: number | null;
  /** Whether it should be found out if the server knows us (again). */
  readonly ask: boolean;
}

export const START: State = {
  lines: new Map(),
  lost: new Map(),
  cut: false,
  known: null,
  muted: new Set()
};

/**
 * Seconds before a failure without a reason is spoken of. A server that restarts is no news until it takes
 * longer than that usually does; that websockets are blocked must be said within 10 s.
 */
const PATIENCE = { server_down: 10, websockets_blocked: 3 } as const;

/** Shorter waits are not spoken of, unless the server asked for them. */
const SHORT_WAIT = 5;

/** Longer waits can be ended by the user. */
const LONG_WAIT = 60;

/** Seconds after which a wait that is over is forgotten: what waited is gone too. */
const STALE = 15;

/** Seconds after which a failure that says nothing is forgotten: JupyterLab tries again sooner, or gave up. */
const FORGOTTEN = 90;

/** Whether the reason is that there is nothing (any more): what used it says whether that matters (`lost`). */
export function isMissing({ slug }: Closed): boolean {
  return slug === 'gone' || slug === 'not_found';
}

/** Worst first; also the order in which notices are told. */
const TOPICS: readonly Topic[] = [
  'signed_out',
  'other_server',
  'stopped',
  'gone',
  'ended',
  'not_attempted',
  'blocked',
  'down',
  'waiting',
  'cut'
];

/** While one of these holds, the ones after it are its consequences, or cannot be helped before. */
const HIDES: Readonly<Partial<Record<Topic, readonly Topic[]>>> = {
  signed_out: ['stopped', 'gone', 'not_attempted', 'blocked', 'down', 'waiting'],
  down: ['gone', 'blocked', 'waiting']
};

/** The state after `input`. `now` in seconds of any clock that only goes forward. */
export function reduce(state: State, input: Input, now: number): State {
  const after = { ...state, ...change(state, input, now) };
  const holding = new Set(found(after, now, true).map(notice => notice.topic));
  return { ...after, muted: new Set([...after.muted].filter(topic => holding.has(topic))) };
}

function change(state: State, input: Input, now: number): Partial<State> {
  switch (input.kind) {
    case 'open':
      return {
        known: true,
        lines: set(answered(state.lines), input.path, now, {
          state: 'open',
          open: (state.lines.get(input.path)?.open ?? 0) + 1
        }),
        lost: without(state.lost, input.path)
      };
    case 'closed': {
      const line = state.lines.get(input.path);
      const open = Math.max(0, (line?.open ?? 0) - 1);
      if (!line || (line.state === 'open' && open === 0)) {
        return { lines: without(state.lines, input.path) };
      }
      return { lines: new Map(state.lines).set(input.path, { ...line, open }) };
    }
    case 'refused':
      return {
        lines: answered(state.lines),
        cut: state.cut || input.closed.slug === 'backlog_full'
      };
    case 'parked':
      return {
        lines: set(answered(state.lines), input.path, now, { state: 'parked', closed: input.closed })
      };
    case 'waiting':
      return {
        lines: set(answered(state.lines), input.path, now, {
          state: 'waiting',
          closed: input.closed,
          until: now + input.seconds
        })
      };
    case 'unexplained': {
      const before = state.lines.get(input.path);
      const same = before?.cause === input.cause && input.cause !== 'unknown';
      // It may be that the server says who we are no longer; before, it was not asked.
      const known = input.cause === 'credential_refused' && state.known ? null : state.known;
      return {
        known,
        lines: set(state.lines, input.path, same ? before.since : now, {
          state: 'unexplained',
          cause: input.cause
        })
      };
    }
    case 'released': {
      const line = state.lines.get(input.path);
      const hopes = line?.cause === 'server_down' || line?.cause === 'websockets_blocked';
      return {
        // What it waits for may be as it was, and nobody says so a second time.
        lines: hopes
          ? new Map(state.lines).set(input.path, { ...line, since: now })
          : unless(state.lines, (_, path) => path === input.path),
        lost: without(state.lost, input.path)
      };
    }
    case 'abandoned':
      // That something lost its kernel or terminal is as true as before.
      return { lines: unless(state.lines, (_, path) => path === input.path) };
    case 'settled':
      return {
        lines: unless(state.lines, (_, path) => path === input.path),
        lost: without(state.lost, input.path)
      };
    case 'known':
      return input.known
        ? { known: true, lines: unless(state.lines, line => line.cause === 'credential_refused') }
        : { known: input.known };
    case 'reached':
      return { lines: unless(state.lines, line => line.cause === 'server_down') };
    case 'lost':
      return { lost: new Map(state.lost).set(input.path, input.lost) };
    case 'dismissed':
      return dismissed(state, input.topic);
  }
}

/** What is told once is over when it was read; the rest only holds its tongue. */
function dismissed(state: State, topic: Topic): Partial<State> {
  if (topic === 'cut') {
    return { cut: false };
  }
  if (topic === 'gone' || topic === 'ended') {
    const lost = new Map([...state.lost].filter(([, one]) => one.topic !== topic));
    return { lost };
  }
  return { muted: new Set([...state.muted, topic]) };
}

/** What is to be shown at the moment `now`. */
export function view(state: State, now: number): View {
  const all = found(state, now, false);
  const hidden = new Set(all.flatMap(notice => HIDES[notice.topic] ?? []));
  const holding = all.filter(notice => !hidden.has(notice.topic));
  return {
    word: word(state, holding, now),
    notices: holding.filter(notice => !state.muted.has(notice.topic)),
    holding,
    next: next(state, now),
    ask: [...state.lines.values()].some(isUnknown)
  };
}

/** A path that needs another credential, or may need one. */
function isUnknown(line: Line): boolean {
  return line.closed?.advice === 'authenticate' || line.cause === 'credential_refused';
}

/** Every notice that there is reason for, in order. `early`: also what it is too early to speak of. */
function found(state: State, now: number, early: boolean): Notice[] {
  const notices: Notice[] = [];
  for (const topic of TOPICS) {
    const lines = [...state.lines.values()].filter(line => topicOf(line, state, now, early) === topic);
    const lost = [...state.lost.values()].filter(one => one.topic === topic);
    const count = lines.length + lost.length + (topic === 'cut' && state.cut ? 1 : 0);
    if (count > 0) {
      const longest = lines.reduce((last, line) => Math.max(last, line.until), 0);
      notices.push({
        topic,
        count,
        names: lost.map(one => one.name).filter(name => name !== ''),
        replaceable: lost.some(one => one.replaceable),
        closed: lines.find(line => line.closed)?.closed ?? null,
        seconds: Math.max(0, Math.ceil(longest - now)),
        long: lines.some(isLong)
      });
    }
  }
  return notices;
}

/** What a line gives reason to say, if anything. */
function topicOf(line: Line, state: State, now: number, early: boolean): Topic | null {
  switch (line.state) {
    case 'open':
      return null;
    case 'parked':
      return parkedTopic(line.closed as Closed);
    case 'waiting':
      return told(line) && !isOver(line, now) ? 'waiting' : null;
    case 'unexplained':
      if (line.cause === 'credential_refused') {
        return state.known === false ? 'signed_out' : null;
      }
      return early || now >= line.since + patience(line) ? causeTopic(line.cause as Cause) : null;
  }
}

function parkedTopic(closed: Closed): Topic | null {
  if (closed.advice === 'authenticate') {
    return 'signed_out';
  }
  if (closed.advice === 'redirect') {
    return 'other_server';
  }
  return isMissing(closed) ? null : 'stopped';
}

function causeTopic(cause: Cause): Topic | null {
  switch (cause) {
    case 'server_down':
      return 'down';
    case 'websockets_blocked':
      return 'blocked';
    case 'not_attempted':
      return 'not_attempted';
    default:
      return null; // nothing that would help
  }
}

function patience(line: Line): number {
  return (PATIENCE as Readonly<Record<string, number>>)[line.cause as Cause] ?? 0;
}

/** Whether nothing was heard of it for so long that nothing will be. */
export function isOver(line: Line, now: number): boolean {
  return (
    (line.state === 'waiting' && now >= line.until + STALE) ||
    (line.cause === 'unknown' && now >= line.since + FORGOTTEN)
  );
}

/** Whether it waits so long that the user may end that. */
export function isLong(line: Line): boolean {
  return line.state === 'waiting' && line.until - line.since > LONG_WAIT;
}

/** Whether a wait is worth a notice: always where the server asked for it, unless it only restarts. */
function told(line: Line): boolean {
  const wait = line.until - line.since;
  if (line.closed?.slug === 'draining') {
    return wait >= PATIENCE.server_down;
  }
  return line.closed?.advice === 'retry_after' || wait >= SHORT_WAIT;
}

function word(state: State, holding: readonly Notice[], now: number): Word {
  for (const { topic } of holding) {
    if (topic !== 'cut' && topic !== 'ended') {
      return topic;
    }
  }
  const lines = [...state.lines.values()];
  if (lines.some(line => (line.state === 'unexplained' || line.state === 'waiting') && !isOver(line, now))) {
    return 'connecting';
  }
  return lines.some(line => line.open > 0) ? 'connected' : 'idle';
}

/** The first moment after `now` at which time alone changes the view. */
function next(state: State, now: number): number | null {
  const moments: number[] = [];
  for (const line of state.lines.values()) {
    if (line.state === 'unexplained') {
      moments.push(line.since + (line.cause === 'unknown' ? FORGOTTEN : patience(line)));
    } else if (line.state === 'waiting') {
      const left = line.until - now;
      // Each time the whole seconds change.
      moments.push(left > 0 ? line.until - Math.ceil(left) + 1 : line.until + STALE);
    }
  }
  const coming = moments.filter(moment => moment > now);
  return coming.length > 0 ? Math.min(...coming) : null;
}

type Lines = State['lines'];

function set(lines: Lines, path: string, since: number, said: Partial<Line> & Pick<Line, 'state'>): Lines {
  const open = lines.get(path)?.open ?? 0;
  return new Map(lines).set(path, { open, closed: null, cause: null, until: 0, since, ...said });
}

function without<V>(map: ReadonlyMap<string, V>, path: string): ReadonlyMap<string, V> {
  return new Map([...map].filter(([key]) => key !== path));
}

/** Without the trouble that is over; of a path that has open sockets too, these stay. */
function unless(lines: Lines, over: (line: Line, path: string) => boolean): Lines {
  const rest = new Map<string, Line>();
  for (const [path, line] of lines) {
    if (!over(line, path)) {
      rest.set(path, line);
    } else if (line.open > 0) {
      rest.set(path, { ...line, state: 'open', closed: null, cause: null });
    }
  }
  return rest;
}

/** A socket got through and the server answered: that it was down, or websockets blocked, is over. */
function answered(lines: Lines): Lines {
  return unless(lines, line => line.cause === 'server_down' || line.cause === 'websockets_blocked');
}
