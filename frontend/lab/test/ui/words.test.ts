import { nullTranslator } from '@jupyterlab/translation';
import { REASONS, type Cause, type Slug } from 'jupyter-token-ws';
import { describe, expect, it } from 'vitest';
import { reduce, START, view, type Notice, type Topic } from '../../src/ui/state.js';
import {
  kernelId,
  lineState,
  milliseconds,
  pathName,
  sentence,
  state,
  terminalName
} from '../../src/ui/words.js';
import { closed, EVENTS, kernel, open, parked, terminal, unexplained, waiting } from './events.js';

const trans = nullTranslator.load('jupyter_token_ws');
const SLUGS = Object.keys(REASONS) as Slug[];
const TOPICS: Topic[] = [
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

function notice(topic: Topic, more: Partial<Notice> = {}): Notice {
  return { topic, count: 1, names: [], replaceable: false, closed: null, seconds: 0, long: false, ...more };
}

const say = (topic: Topic, more: Partial<Notice> = {}): string => sentence(notice(topic, more), trans);

describe('sentences', () => {
  it.each(TOPICS)('%s fits into a notification, whatever is in it', topic => {
    const name = 'a very long name indeed '.repeat(10);
    for (const slug of SLUGS) {
      for (const names of [[], [name], [name, name]]) {
        const said = say(topic, {
          names,
          count: names.length || 1234,
          closed: closed(slug),
          seconds: 86400
        });
        expect(said.length).toBeLessThanOrEqual(140);
        expect(said).toMatch(/^[A-Z0-9].*\.$/);
        expect(said).not.toMatch(/%\d|undefined|null/);
      }
    }
  });

  it('name what is lost if it is one', () => {
    expect(say('gone', { names: ['a.ipynb'] })).toMatch(/^The kernel of a\.ipynb is gone/);
    expect(say('gone')).toMatch(/^A kernel is gone/);
    expect(say('gone', { names: ['a', 'b'], count: 2 })).toMatch(/^2 kernels are gone/);
    expect(say('ended', { names: ['3'] })).toBe('Terminal 3 has ended. You can close its tab.');
    expect(say('ended')).toMatch(/^A terminal has ended/);
    expect(say('ended', { names: ['1', '2'], count: 2 })).toMatch(/^2 terminals have ended/);
  });

  it('count down', () => {
    const more = { closed: closed('too_many_connections') };
    expect(say('waiting', { ...more, seconds: 2 })).toBe('Too many connections. Trying again in 2 seconds.');
    expect(say('waiting', { ...more, seconds: 1 })).toBe('Too many connections. Trying again in 1 second.');
    expect(say('waiting', more)).toBe('Too many connections. Trying again.');
  });

  it('say no more than is known where websockets do not get through', () => {
    expect(say('blocked')).toMatch(
      /^Websockets do not get through to the server: .* or the server does not accept/
    );
    expect(state({ word: 'blocked' }, trans)).toBe('No websockets');
  });

  it('are in the words of the table', () => {
    expect(say('stopped', { closed: closed('forbidden') })).toBe(
      'The server refused a connection: you may not use this.'
    );
  });
});

it('there is a word for every state', () => {
  const words = [...TOPICS, 'connecting', 'connected', 'idle']
    .filter(word => word !== 'cut' && word !== 'ended')
    .map(word => state({ word: word as never }, trans));
  expect(new Set(words).size).toBe(words.length);
  expect(words.every(word => /^[A-Z]/.test(word))).toBe(true);
});

it('every line has words', () => {
  const told = (event: Parameters<typeof reduce>[1], now = 101): string => {
    const after = reduce(START, event, 100);
    expect(view(after, 100)).toBeDefined();
    return lineState([...after.lines.values()][0]!, now, trans);
  };
  expect(told(open(EVENTS))).toBe('connected');
  expect(told(parked(EVENTS, 'token_expired'))).toBe('the token has expired');
  expect(told(waiting(EVENTS, 'unavailable', 9))).toBe(
    'a part of the server is not available: Trying again in 8 seconds.'
  );
  expect(told(waiting(EVENTS, 'unavailable', 9), 120)).toMatch(/: Trying again\.$/);
  const causes: Cause[] = [
    'server_down',
    'websockets_blocked',
    'credential_refused',
    'not_attempted',
    'unknown'
  ];
  expect(causes.map(cause => told(unexplained(EVENTS, cause)))).toEqual([
    'the server does not answer',
    'websockets do not get through',
    'the server does not know you',
    'the browser refuses to connect',
    'connecting'
  ]);
});

it('a round trip is in whole milliseconds', () => {
  expect(milliseconds(0.0234, trans)).toBe('23 ms');
  expect(milliseconds(0.0001, trans)).toBe('1 ms');
});

it.each([
  [kernel('3f2a1b4c-77'), 'Kernel 3f2a1b4c'],
  [kernel('known'), 'Kernel of a.ipynb'],
  [terminal('my%20own'), 'Terminal my own'],
  [EVENTS, 'Events of the server'],
  ['lsp/ws/pylsp', 'Language server pylsp'],
  ['api/collaboration/room/json:notebook:3f', 'Shared document (notebook)'],
  ['api/collaboration/room/json%3Afile%3A3f', 'Shared document (file)'],
  ['api/collaboration/room/JupyterLab:globalAwareness', 'api/collaboration/room/JupyterLab:globalAwareness'],
  ['other/%3Cb%3E', 'other/<b>'],
  ['other/%zz', 'other/%zz']
])('%s is called %s', (path, name) => {
  expect(pathName(path, one => (one === kernel('known') ? 'a.ipynb' : null), trans)).toBe(name);
});

it('ids and names come out of paths', () => {
  expect([kernelId(kernel('a%2Fb')), kernelId(EVENTS), kernelId(`${kernel(1)}/x`)]).toEqual([
    'a/b',
    null,
    null
  ]);
  expect([terminalName(terminal('%31')), terminalName(kernel(1))]).toEqual(['1', null]);
});
