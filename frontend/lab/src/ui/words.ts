/**
 * Every sentence that people read. Reasons are worded by the table that the server's side has too
 * (`closed.text`); nothing here comes from a peer but names of files, kernels and terminals, which are
 * shown as plain text.
 *
 * JupyterLab cuts notifications after 140 characters.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import type { Cause } from 'jupyter-token-ws';
import type { Line, Notice, View, Word } from './state.js';

/** The sentence of a notice. */
export function sentence(notice: Notice, trans: TranslationBundle): string {
  const { count, closed, seconds } = notice;
  const [name] = notice.names;
  switch (notice.topic) {
    case 'signed_out':
      return trans.__(
        'You are signed out. Sign in again to go on: what you have not saved yet stays on this page.'
      );
    case 'other_server':
      return trans.__('What this page wants is on another server.');
    case 'stopped':
      return trans.__('The server refused a connection: %1.', reason(closed, trans));
    case 'gone':
      return count === 1 && name
        ? trans.__('The kernel of %1 is gone, and its variables with it. The document is kept.', short(name))
        : trans._n(
            'A kernel is gone, and its variables with it. Documents are kept.',
            '%1 kernels are gone, and their variables with them. Documents are kept.',
            count
          );
    case 'ended':
      return count === 1 && name
        ? trans.__('Terminal %1 has ended. You can close its tab.', short(name))
        : trans._n(
            'A terminal has ended. You can close its tab.',
            '%1 terminals have ended. You can close their tabs.',
            count
          );
    case 'not_attempted':
      return trans.__('The browser refuses to connect. A page with https cannot use a server without it.');
    case 'blocked':
      return trans.__(
        "Websockets do not get through to the server: the network or a proxy blocks them, or the server does not accept this page's address."
      );
    case 'down':
      return trans.__('The server does not answer. This page connects again by itself when it does.');
    case 'waiting':
      return `${sentenceOf(reason(closed, trans))} ${again(seconds, trans)}`;
    case 'cut':
      return trans.__(
        'Output was cut: there was more than this page could take. To see all of it, run the cell again.'
      );
  }
}

/** The whole in a word or two. */
export function state(view: Pick<View, 'word'>, trans: TranslationBundle): string {
  const words: Record<Word, () => string> = {
    signed_out: () => trans.__('Signed out'),
    other_server: () => trans.__('Other server'),
    stopped: () => trans.__('Refused'),
    gone: () => trans.__('Kernel gone'),
    not_attempted: () => trans.__('Not connected'),
    blocked: () => trans.__('No websockets'),
    down: () => trans.__('No answer'),
    waiting: () => trans.__('Waiting'),
    connecting: () => trans.__('Connecting'),
    connected: () => trans.__('Connected'),
    idle: () => trans.__('No connection needed')
  };
  return words[view.word]();
}

/** What a path is in, for the list of all. */
export function lineState(line: Line, now: number, trans: TranslationBundle): string {
  switch (line.state) {
    case 'open':
      return trans.__('connected');
    case 'parked':
      return reason(line.closed, trans);
    case 'waiting':
      return trans.__('%1: %2', reason(line.closed, trans), again(Math.ceil(line.until - now), trans));
    case 'unexplained':
      return causeState(line.cause, trans);
  }
}

function causeState(cause: Cause | null, trans: TranslationBundle): string {
  switch (cause) {
    case 'server_down':
      return trans.__('the server does not answer');
    case 'websockets_blocked':
      return trans.__('websockets do not get through');
    case 'credential_refused':
      return trans.__('the server does not know you');
    case 'not_attempted':
      return trans.__('the browser refuses to connect');
    default:
      return trans.__('connecting');
  }
}

/** A path by a name that people know. `nameOf` names the document that uses a kernel, if there is one. */
export function pathName(
  path: string,
  nameOf: (path: string) => string | null,
  trans: TranslationBundle
): string {
  const kernel = kernelId(path);
  if (kernel !== null) {
    const document = nameOf(path);
    return document ? trans.__('Kernel of %1', document) : trans.__('Kernel %1', kernel.slice(0, 8));
  }
  const terminal = terminalName(path);
  if (terminal !== null) {
    return trans.__('Terminal %1', terminal);
  }
  if (path === 'api/events/subscribe') {
    return trans.__('Events of the server');
  }
  if (path.startsWith('lsp/ws/')) {
    return trans.__('Language server %1', decoded(path.slice('lsp/ws/'.length)));
  }
  // `json:notebook:3f…`: format, type and an id that nobody knows
  const shared = /^api\/collaboration\/room\/[^:/]+:([^:/]+):/.exec(decoded(path))?.[1];
  if (shared !== undefined) {
    return trans.__('Shared document (%1)', shared);
  }
  return decoded(path);
}

/** The id of the kernel whose channels a path is; `null` for other paths. */
export function kernelId(path: string): string | null {
  const id = /^api\/kernels\/([^/]+)\/channels$/.exec(path)?.[1];
  return id === undefined ? null : decoded(id);
}

/** The path of a kernel's channels. */
export function kernelPath(id: string): string {
  return `api/kernels/${encodeURIComponent(id)}/channels`;
}

/** The name of the terminal that a path is; `null` for other paths. */
export function terminalName(path: string): string | null {
  const name = /^terminals\/websocket\/([^/]+)$/.exec(path)?.[1];
  return name === undefined ? null : decoded(name);
}

/** Seconds, as people read a round trip. */
export function milliseconds(seconds: number, trans: TranslationBundle): string {
  return trans.__('%1 ms', Math.max(1, Math.round(seconds * 1000)));
}

/** The reason in the table's words. */
function reason(closed: Notice['closed'], trans: TranslationBundle): string {
  // The sentences of the table are constants, and are translated like all others.
  return closed ? trans.__(closed.text) : '';
}

function again(seconds: number, trans: TranslationBundle): string {
  return seconds > 0
    ? trans._n('Trying again in %1 second.', 'Trying again in %1 seconds.', seconds)
    : trans.__('Trying again.');
}

function sentenceOf(words: string): string {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

/** So that a sentence with a long name in it is not cut. */
function short(name: string): string {
  return name.length > 40 ? `${name.slice(0, 39)}…` : name;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
