import { REASONS, type Slug } from 'jupyter-token-ws';
import { describe, expect, it } from 'vitest';
import { reduce, START, view, type Input, type State, type Topic, type View } from '../../src/ui/state.js';
import {
  abandoned,
  EVENTS,
  kernel,
  open,
  parked,
  refused,
  released,
  terminal,
  unexplained,
  waiting
} from './events.js';

/** Inputs in order, each at its moment. */
class Story {
  state: State = START;
  now = 100;

  at(now: number, ...inputs: Input[]): this {
    this.now = now;
    return this.then(...inputs);
  }

  then(...inputs: Input[]): this {
    for (const input of inputs) {
      this.state = reduce(this.state, input, this.now);
    }
    return this;
  }

  get view(): View {
    return view(this.state, this.now);
  }

  get topics(): Topic[] {
    return this.view.notices.map(notice => notice.topic);
  }
}

const story = (...inputs: Input[]): Story => new Story().then(...inputs);
const dismissed = (topic: Topic): Input => ({ kind: 'dismissed', topic });
const ended = (path: string): Input => ({ kind: 'closed', path });
const known = (yes: boolean | null): Input => ({ kind: 'known', known: yes });
const ALL = [...Array(10).keys()].map(kernel).concat(terminal(1), EVENTS);
const LOST = { topic: 'gone', name: 'a.ipynb', replaceable: true } as const;

describe('nothing to say', () => {
  it('before anything happened', () => {
    expect(story().view).toEqual({ word: 'idle', notices: [], holding: [], next: null, ask: false });
  });

  it('while sockets are open, and when they are closed', () => {
    const told = story(open(EVENTS), open(kernel(1)), open(kernel(1)));
    expect(told.view).toEqual({ word: 'connected', notices: [], holding: [], next: null, ask: false });
    expect(told.then(ended(kernel(1)), ended(EVENTS)).view.word).toBe('connected');
    expect(told.then(ended(kernel(1))).view.word).toBe('idle');
    expect(told.then(ended(kernel(1))).state.lines.size).toBe(0);
  });

  it('about what the next attempt will mend', () => {
    const told = story(refused(EVENTS, 'token_rejected'));
    expect(told.view.word).toBe('idle');
    expect(told.then(unexplained(EVENTS, 'unknown')).view.word).toBe('connecting');
    expect(told.topics).toEqual([]);
    expect(told.then(open(EVENTS)).view.word).toBe('connected');
  });

  it('about what nobody tries any more', () => {
    const told = story(unexplained(EVENTS, 'unknown')).at(180, unexplained(EVENTS, 'unknown'));
    expect(told.view).toMatchObject({ word: 'connecting', next: 270 });
    expect(told.at(270).view).toMatchObject({ word: 'idle', next: null });
  });

  it('about a server that restarts', () => {
    const told = story(open(EVENTS));
    told.then(refused(EVENTS, 'draining'), waiting(EVENTS, 'draining', 5.5), ended(EVENTS));
    expect(told.topics).toEqual([]);
    expect(told.view.word).toBe('connecting');
    told.at(106, unexplained(EVENTS, 'server_down'));
    expect(told.topics).toEqual([]);
    expect(told.at(115).topics).toEqual([]);
    told.at(115.5, open(EVENTS));
    expect(told.view).toMatchObject({ word: 'connected', notices: [], next: null });
  });
});

describe('signed out', () => {
  const out = (): Story => story(...ALL.map(path => parked(path, 'token_rejected')));

  it.each(['credentials_missing', 'token_expired', 'token_revoked', 'url_token_refused', 'token_rejected'])(
    'is one notice for all paths, for %s',
    slug => {
      const told = story(...ALL.map(path => parked(path, slug as Slug)));
      expect(told.view).toMatchObject({ word: 'signed_out', ask: true });
      expect(told.view.notices).toHaveLength(1);
      expect(told.view.notices[0]).toMatchObject({ topic: 'signed_out', count: ALL.length });
    }
  );

  it('ends when the paths are released, and comes again with the next outage', () => {
    const told = out().then(...ALL.map(released));
    expect(told.view).toEqual({ word: 'idle', notices: [], holding: [], next: null, ask: false });
    expect(told.then(parked(EVENTS, 'token_expired')).topics).toEqual(['signed_out']);
  });

  it('is silent when the user put it away, but remains the state', () => {
    const told = out().then(dismissed('signed_out'));
    expect(told.view).toMatchObject({ word: 'signed_out', notices: [], ask: true });
    told.then(
      refused(EVENTS, 'token_rejected'),
      parked(EVENTS, 'token_rejected'),
      parked('x', 'token_expired')
    );
    expect(told.topics).toEqual([]);
    told.then(...ALL.map(released), released('x'), ...ALL.map(open));
    expect(told.view.word).toBe('connected');
    expect(told.then(parked(EVENTS, 'token_rejected')).topics).toEqual(['signed_out']);
  });

  it('hides what follows from it', () => {
    const told = out().then(waiting(kernel(1), 'too_many_attempts', 60), parked(kernel(2), 'forbidden'));
    expect(told.topics).toEqual(['signed_out']);
    told.then(...ALL.filter(path => path !== kernel(1) && path !== kernel(2)).map(released));
    expect(told.topics).toEqual(['stopped', 'waiting']);
  });

  it('without a word from the server is asked about, and said when it is so', () => {
    const told = story(unexplained(EVENTS, 'credential_refused'));
    expect(told.view).toMatchObject({ word: 'connecting', notices: [], ask: true });
    told.then(known(null));
    expect(told.topics).toEqual([]);
    told.then(known(false));
    expect(told.view).toMatchObject({ word: 'signed_out', ask: true });
    told.then(known(true));
    expect(told.view).toEqual({ word: 'idle', notices: [], holding: [], next: null, ask: false });
    told.then(unexplained(EVENTS, 'credential_refused'));
    expect(told.view).toMatchObject({ word: 'connecting', notices: [], ask: true });
    told.then(known(false), unexplained(EVENTS, 'credential_refused'));
    expect(told.topics).toEqual(['signed_out']);
  });

  it('leaves open sockets of a path open', () => {
    const told = story(open(EVENTS), unexplained(EVENTS, 'credential_refused'), known(true));
    expect(told.view.word).toBe('connected');
  });
});

describe('failures without a reason', () => {
  it('that the server is down is said when it lasts', () => {
    const told = story(...ALL.map(path => unexplained(path, 'server_down')));
    expect(told.view).toMatchObject({ word: 'connecting', notices: [], next: 110 });
    told.at(105, unexplained(EVENTS, 'server_down'));
    expect(told.at(110).view).toMatchObject({ word: 'down', next: null });
    expect(told.view.notices).toHaveLength(1);
    expect(told.view.notices[0]).toMatchObject({ topic: 'down', count: ALL.length });
  });

  it('it is over for all when one gets through, or an answer comes', () => {
    for (const input of [open(EVENTS), parked(EVENTS, 'forbidden'), refused(EVENTS, 'draining')]) {
      const told = story(...ALL.map(path => unexplained(path, 'server_down')))
        .at(200)
        .then(input);
      expect(told.topics).not.toContain('down');
      expect([...told.state.lines.values()].some(line => line.cause)).toBe(false);
    }
    const told = story(unexplained(EVENTS, 'server_down'), unexplained(kernel(1), 'websockets_blocked'));
    expect(told.at(200).topics).toEqual(['down']);
    expect(told.then({ kind: 'reached' }).topics).toEqual(['blocked']);
  });

  it('blocked websockets are said within 10 s', () => {
    const told = story(unexplained(EVENTS, 'websockets_blocked'));
    expect(told.view).toMatchObject({ word: 'connecting', next: 103 });
    expect(told.at(103).view).toMatchObject({ word: 'blocked', next: null });
    expect(told.topics).toEqual(['blocked']);
  });

  it('what the browser refuses is said at once', () => {
    expect(story(unexplained(EVENTS, 'not_attempted')).topics).toEqual(['not_attempted']);
  });

  it('another cause begins anew', () => {
    const told = story(unexplained(EVENTS, 'server_down')).at(109, unexplained(EVENTS, 'websockets_blocked'));
    expect(told.at(111).topics).toEqual([]);
    expect(told.at(112).topics).toEqual(['blocked']);
  });

  it('put away before its time it does not come later', () => {
    const told = story(unexplained(EVENTS, 'server_down'), dismissed('down'));
    expect(told.at(120).view).toMatchObject({ word: 'down', notices: [] });
  });

  it.each([
    ['server_down', 'down'],
    ['websockets_blocked', 'blocked']
  ] as const)('trying again begins anew, and may end the same: %s', (cause, topic) => {
    const told = story(unexplained(EVENTS, cause)).at(120);
    expect(told.topics).toEqual([topic]);
    told.then(released(EVENTS));
    expect(told.view).toMatchObject({ word: 'connecting', notices: [] });
    expect(told.at(130).topics).toEqual([topic]);
    expect(told.then({ kind: 'settled', path: EVENTS }).view.word).toBe('idle');
  });
});

describe('waiting', () => {
  it('counts whole seconds down, and says when the next change is due', () => {
    const told = story(waiting(EVENTS, 'too_many_connections', 2.5), waiting(kernel(1), 'unavailable', 1.2));
    const seconds = (): number | undefined => told.view.notices[0]?.seconds;
    expect(told.view).toMatchObject({ word: 'waiting', ask: false });
    expect(told.topics).toEqual(['waiting']);
    expect(seconds()).toBe(3);
    expect(told.view.next).toBeCloseTo(100.2);
    expect(told.at(100.5).view.next).toBeCloseTo(101.2);
    expect(seconds()).toBe(2);
    told.at(101.5);
    expect(seconds()).toBe(1);
    told.at(102.5);
    expect(seconds()).toBe(0);
    expect(told.view.notices[0]?.closed?.slug).toBe('too_many_connections');
  });

  it('ends when the path opens', () => {
    expect(story(waiting(EVENTS, 'unavailable', 9)).at(109, open(EVENTS)).topics).toEqual([]);
  });

  it('is forgotten when nothing comes of it', () => {
    const told = story(waiting(EVENTS, 'unavailable', 9)).at(110);
    expect(told.view).toMatchObject({ word: 'waiting', next: 124 });
    expect(told.at(124).view).toMatchObject({ word: 'idle', notices: [], next: null });
  });

  it('a short wait that nobody asked for is no news', () => {
    const told = story(waiting(EVENTS, 'internal_error', 4));
    expect(told.view).toMatchObject({ word: 'connecting', notices: [] });
    expect(told.then(waiting(EVENTS, 'internal_error', 6)).topics).toEqual(['waiting']);
  });

  it('a server that ends for longer is', () => {
    expect(story(waiting(EVENTS, 'draining', 9)).topics).toEqual([]);
    expect(story(waiting(EVENTS, 'draining', 30)).topics).toEqual(['waiting']);
  });

  it('put away it stays away from one wait to the next', () => {
    const told = story(waiting(EVENTS, 'unavailable', 9), dismissed('waiting'));
    told.at(109, refused(EVENTS, 'unavailable'), waiting(EVENTS, 'unavailable', 10));
    expect(told.view).toMatchObject({ word: 'waiting', notices: [] });
    told.at(130, open(EVENTS), waiting(EVENTS, 'unavailable', 10));
    expect(told.topics).toEqual(['waiting']);
  });
});

describe('other reasons', () => {
  const others = Object.entries(REASONS).filter(
    ([slug, { advice }]) => advice === 'stop' && slug !== 'gone' && slug !== 'not_found'
  );

  it.each(others)('%s is told in the words of the table', slug => {
    const told = story(parked(EVENTS, slug as Slug));
    expect(told.view).toMatchObject({ word: 'stopped', ask: false });
    expect(told.view.notices[0]).toMatchObject({ topic: 'stopped', closed: { slug } });
    expect(told.then(dismissed('stopped')).topics).toEqual([]);
    expect(told.then(released(EVENTS)).view.word).toBe('idle');
  });

  it('another server', () => {
    expect(story(parked(EVENTS, 'other_server')).topics).toEqual(['other_server']);
  });

  it('a wait is long from the beginning, and to its end', () => {
    const long = (now: number, seconds: number): boolean | undefined =>
      story(waiting(EVENTS, 'too_many_connections', seconds)).at(now).view.notices[0]?.long;
    expect([long(100, 60), long(100, 61), long(160, 61)]).toEqual([false, true, true]);
  });

  it('cut output is told once, and again after it was read', () => {
    const told = story(refused(kernel(1), 'backlog_full'), waiting(kernel(1), 'backlog_full', 0.5));
    expect(told.topics).toEqual(['cut']);
    expect(told.view.word).toBe('connecting');
    told.then(open(kernel(1)));
    expect(told.topics).toEqual(['cut']);
    expect(told.view.word).toBe('connected');
    expect(told.then(dismissed('cut')).topics).toEqual([]);
    expect(told.then(refused(kernel(1), 'backlog_full')).topics).toEqual(['cut']);
  });
});

describe('what the page gave up', () => {
  it.each([
    [parked(kernel(1), 'forbidden'), 'stopped'],
    [parked(kernel(1), 'token_expired'), 'signed_out'],
    [waiting(kernel(1), 'too_many_connections', 100), 'waiting'],
    [unexplained(kernel(1), 'websockets_blocked'), 'blocked'],
    [unexplained(kernel(1), 'server_down'), 'down']
  ] as const)('is no trouble any more: %o', (event, topic) => {
    const told = story(event).at(120);
    expect(told.topics).toEqual([topic]);
    expect(told.then(abandoned(kernel(2))).topics).toEqual([topic]);
    told.then(abandoned(kernel(1)));
    expect([told.topics, told.view.word, told.view.next]).toEqual([[], 'idle', null]);
    expect(told.state.lines.size).toBe(0);
  });

  it('leaves the sockets that are open, and what is lost', () => {
    const told = story(open(kernel(1)), unexplained(kernel(1), 'unknown'), abandoned(kernel(1)));
    expect([told.view.word, told.state.lines.get(kernel(1))?.state]).toEqual(['connected', 'open']);
    told.then({ kind: 'lost', path: kernel(2), lost: LOST }, abandoned(kernel(2)));
    expect(told.topics).toEqual(['gone']);
  });
});

describe('kernels and terminals that are gone', () => {
  it.each(['gone', 'not_found'] as const)('%s matters only where somebody lost it', slug => {
    const told = story(parked(kernel(1), slug));
    expect(told.view).toMatchObject({ word: 'idle', notices: [] });
    told.then({ kind: 'lost', path: kernel(1), lost: LOST });
    expect(told.view.word).toBe('gone');
    expect(told.view.notices).toEqual([
      {
        topic: 'gone',
        count: 1,
        names: ['a.ipynb'],
        replaceable: true,
        closed: null,
        seconds: 0,
        long: false
      }
    ]);
  });

  it('are one notice, and end with the last', () => {
    const told = story(
      ...[1, 2].map((id): Input => ({ kind: 'lost', path: kernel(id), lost: LOST })),
      { kind: 'lost', path: kernel(3), lost: { ...LOST, name: '' } },
      { kind: 'lost', path: terminal(1), lost: { topic: 'ended', name: '1', replaceable: false } }
    );
    expect(told.topics).toEqual(['gone', 'ended']);
    expect(told.view.notices[0]).toMatchObject({ count: 3, names: ['a.ipynb', 'a.ipynb'] });
    told.then({ kind: 'settled', path: kernel(1) }, released(kernel(2)), open(kernel(3)));
    expect(told.topics).toEqual(['ended']);
    expect(told.view.word).toBe('connected');
  });

  it('are told when something can be done about it', () => {
    const told = story({ kind: 'lost', path: kernel(1), lost: LOST }, parked(EVENTS, 'token_expired'));
    expect(told.topics).toEqual(['signed_out']);
    expect(told.then(released(EVENTS)).topics).toEqual(['gone']);
    expect(told.then(unexplained(EVENTS, 'server_down')).at(200).topics).toEqual(['down']);
    expect(told.then(open(EVENTS)).topics).toEqual(['gone']);
  });

  it('put away are forgotten', () => {
    const told = story({ kind: 'lost', path: kernel(1), lost: LOST }, dismissed('gone'));
    expect(told.view).toMatchObject({ word: 'idle', notices: [] });
    told.then({ kind: 'lost', path: kernel(2), lost: LOST });
    expect(told.view.notices[0]).toMatchObject({ topic: 'gone', count: 1 });
    told.then({ kind: 'lost', path: terminal(1), lost: { ...LOST, topic: 'ended' } }, dismissed('ended'));
    expect(told.topics).toEqual(['gone']);
  });
});
