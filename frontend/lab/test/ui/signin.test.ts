import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { openLogin, SignIn, type LoginWindow } from '../../src/ui/signin.js';

/** What the server says, in order; the last again and again. */
let answers: (boolean | null | Error)[];
let asked: number;
let known: (boolean | null)[];
let signedIn: number;
let opened: { address: string; window: { close(): void; closed: boolean } }[];
let signIn: SignIn;

beforeEach(() => {
  vi.useFakeTimers();
  answers = [false];
  asked = 0;
  known = [];
  signedIn = 0;
  opened = [];
  look(true);
  signIn = new SignIn({
    check: () => {
      asked += 1;
      const answer = answers.length > 1 ? answers.shift() : answers[0];
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer as boolean | null);
    },
    onKnown: now => known.push(now),
    onSignedIn: () => {
      signedIn += 1;
    },
    open: address => {
      const window = {
        closed: false,
        close(): void {
          this.closed = true;
        }
      };
      void address.then(text => opened.push({ address: text, window }));
      return window as LoginWindow;
    }
  });
});

afterEach(() => {
  signIn.wanted = false;
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** Whether somebody looks at the page. */
function look(visible: boolean): void {
  vi.spyOn(document, 'visibilityState', 'get').mockReturnValue(visible ? 'visible' : 'hidden');
  document.dispatchEvent(new Event('visibilitychange'));
}

const pass = (seconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(seconds * 1000);
const address = Promise.resolve('https://host/in');

describe('noticing that somebody signed in', () => {
  it('asks nothing as long as nobody wants to know', async () => {
    window.dispatchEvent(new Event('focus'));
    await pass(100);
    expect(asked).toBe(0);
  });

  it('asks at once, and then more and more seldom', async () => {
    signIn.wanted = true;
    signIn.wanted = true;
    await pass(0);
    expect([asked, known]).toEqual([1, [false]]);
    await pass(60);
    expect(asked).toBeGreaterThan(8);
    const before = asked;
    await pass(3600);
    expect(asked - before).toBeLessThan(80);
  });

  it('reports it, once, when it was otherwise before', async () => {
    answers = [false, null, new Error('offline'), true];
    signIn.wanted = true;
    await pass(30);
    expect(known.slice(0, 4)).toEqual([false, null, null, true]);
    expect(signedIn).toBe(1);
    await pass(100);
    expect(signedIn).toBe(1);
    answers = [false, true];
    await pass(200);
    expect(signedIn).toBe(2);
  });

  it('does not go round in circles where the server knows us and refuses sockets all the same', async () => {
    answers = [true];
    signIn.wanted = true;
    await pass(300);
    expect(signedIn).toBe(0);
    signIn.wanted = false;
    signIn.wanted = true;
    await pass(300);
    expect(signedIn).toBe(0);
  });

  it('ends when nobody wants to know any more', async () => {
    answers = [false, true];
    signIn.wanted = true;
    await pass(0);
    signIn.wanted = false;
    await pass(100);
    expect([asked, signedIn]).toEqual([1, 0]);
    signIn.wanted = true;
    signIn.wanted = false;
    await pass(0);
    expect(known).toEqual([false]);
  });

  it('does not ask while nobody looks, but as soon as somebody does', async () => {
    signIn.wanted = true;
    await pass(0);
    look(false);
    await pass(7);
    const before = asked;
    await pass(1000);
    expect(asked).toBe(before);
    answers = [true];
    look(true);
    window.dispatchEvent(new Event('focus'));
    await pass(0);
    expect([asked, signedIn]).toEqual([before + 1, 1]);
  });
});

describe('signing in', () => {
  it('opens the login, asks often meanwhile, and closes it', async () => {
    answers = [false];
    signIn.wanted = true;
    await pass(0);
    signIn.begin(address);
    look(false);
    await pass(10);
    expect(opened.map(one => one.address)).toEqual(['https://host/in']);
    expect(asked).toBe(6);
    answers = [true];
    await pass(2);
    expect([signedIn, opened[0]?.window.closed]).toEqual([1, true]);
  });

  it('counts even where the server was never seen not to know us', async () => {
    answers = [true];
    signIn.wanted = true;
    await pass(0);
    signIn.begin(address);
    await pass(2);
    expect(signedIn).toBe(1);
    await pass(100);
    expect(signedIn).toBe(1);
    await signIn.now(false);
    expect(signedIn).toBe(1);
    await signIn.now(true);
    expect(signedIn).toBe(2);
  });

  it('has one window at a time', async () => {
    signIn.wanted = true;
    signIn.begin(address);
    signIn.begin(address);
    await pass(0);
    expect(opened.map(one => one.window.closed)).toEqual([true, false]);
    opened[1]!.window.closed = true;
    signIn.begin(address);
    await pass(0);
    expect(opened.map(one => one.window.closed)).toEqual([true, true, false]);
    signIn.wanted = false;
    expect(opened[2]?.window.closed).toBe(true);
  });

  it('is slow again when the window was closed, or stays for ever', async () => {
    signIn.wanted = true;
    signIn.begin(address);
    look(false);
    await pass(11 * 60);
    const before = asked;
    expect(before).toBeGreaterThan(250);
    await pass(3600);
    expect(asked).toBe(before);
  });

  it('works where the browser opens nothing', async () => {
    vi.spyOn(window, 'open').mockReturnValue(null);
    expect(openLogin(address)).toBe(null);
  });
});

it('the login gets a window from which the page cannot be reached', async () => {
  const made = { opener: window as unknown, location: { href: '' } };
  const open = vi.spyOn(window, 'open').mockReturnValue(made as never);
  expect(openLogin(address)).toBe(made);
  expect(open).toHaveBeenCalledWith('', '_blank');
  expect(made).toEqual({ opener: null, location: { href: '' } });
  await address;
  await Promise.resolve();
  expect(made.location.href).toBe('https://host/in');
});
