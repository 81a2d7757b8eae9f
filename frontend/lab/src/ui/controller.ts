/**
 * Puts the parts together: events and answers into the state, the view onto the screen, what the user chose
 * to the part that does it. All of JupyterLab that it needs is handed to it.
 */

import type { NotificationManager } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ConnectionEvent, Connections } from 'jupyter-token-ws';
import { rows, type Picture } from './details.js';
import type { Documents } from './documents.js';
import { NoticeBoard, type Action } from './notices.js';
import type { Server } from './server.js';
import { SignIn } from './signin.js';
import {
  isLong,
  isMissing,
  reduce,
  START,
  view,
  type Input,
  type Notice,
  type State,
  type View
} from './state.js';
import * as words from './words.js';

/** What is asked in a dialog. */
export interface Ask {
  /** A token; `null` where the user has none. */
  token(title: string, label: string): Promise<string | null>;
  /** Yes or no. */
  confirm(title: string, body: string, yes: string): Promise<boolean>;
  /** Nothing: only says something. `address` is shown below it, as a link to a page of its own. */
  tell(title: string, body: string, address?: string): Promise<void>;
}

export interface ControllerOptions {
  readonly connections: Connections;
  readonly server: Server;
  readonly documents: (report: (input: Input) => void) => Documents;
  readonly manager: Pick<NotificationManager, 'notify' | 'update' | 'dismiss' | 'changed'>;
  readonly trans: TranslationBundle;
  readonly ask: Ask;
  /** Shows the state as a whole. */
  readonly show: (picture: Picture) => void;
  /** Whether somebody looks at the state as a whole, so that it is worth measuring. */
  readonly watched: () => boolean;
}

/** Milliseconds between two measurements of the round trip, and while the server does not answer. */
const MEASURE = 30_000;
const MEASURE_DOWN = 5_000;
/** Milliseconds after which JupyterLab shall look what there is, when somebody signed in. */
const REFRESH = 5_000;

export class Controller {
  private readonly _options: ControllerOptions;
  private readonly _documents: Documents;
  private readonly _board: NoticeBoard;
  private readonly _signIn: SignIn;
  private _state: State = START;
  private _view: View = view(START, 0);
  private _notices = true;
  private _roundTrip: number | null = null;
  private _measuring = false;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _measureTimer: ReturnType<typeof setTimeout> | undefined;
  /** As whom the user does not want to go on. */
  private _declined: string | null = null;

  constructor(options: ControllerOptions) {
    this._options = options;
    const { trans } = options;
    this._documents = options.documents(input => this.take(input));
    this._board = new NoticeBoard({
      manager: options.manager,
      sentence: notice => words.sentence(notice, trans),
      action: notice => this._action(notice),
      onDismissed: topic => this.take({ kind: 'dismissed', topic })
    });
    this._signIn = new SignIn({
      check: () => options.server.knows(user => this._agrees(user)),
      onKnown: known => this.take({ kind: 'known', known }),
      onSignedIn: () => this._signedIn()
    });
    document.addEventListener('visibilitychange', () => void this.measure());
    this._render();
  }

  /** Whether notices are shown; the state as a whole always is. */
  set notices(shown: boolean) {
    this._notices = shown;
    this._render();
  }

  /** What happened to a socket. */
  readonly onEvent = (event: ConnectionEvent): void => {
    this.take(event);
    this._tellDocuments(event);
    if (event.kind === 'open') {
      void this._options.server.meet();
    }
  };

  private _tellDocuments(event: ConnectionEvent): void {
    const documents = this._documents;
    switch (event.kind) {
      case 'parked':
        if (isMissing(event.closed)) {
          documents.missing(event.path);
          return;
        }
        return documents.troubled(event.path);
      case 'waiting':
      case 'unexplained':
        return documents.troubled(event.path);
      case 'abandoned':
        return documents.abandoned(event.path);
      case 'open':
        return documents.settled(event.path);
    }
  }

  /** Anything that happened. */
  take(input: Input): void {
    this._state = reduce(this._state, input, now());
    this._render();
  }

  /** How long the server takes to answer, now and then again for as long as somebody looks. */
  async measure(): Promise<void> {
    clearTimeout(this._measureTimer);
    const down = this._view.word === 'down';
    if (this._measuring || document.visibilityState !== 'visible' || !(down || this._options.watched())) {
      return;
    }
    this._measuring = true;
    const before = this._roundTrip;
    this._roundTrip = await this._options.server.roundTrip();
    this._measuring = false;
    if (this._roundTrip !== null && this._view.word === 'down') {
      this.take({ kind: 'reached' });
      this._documents.reconnect();
    } else if (this._roundTrip !== before) {
      this._render();
    }
    this._measureLater();
  }

  private _measureLater(): void {
    clearTimeout(this._measureTimer);
    const wait = this._view.word === 'down' ? MEASURE_DOWN : MEASURE;
    this._measureTimer = setTimeout(() => void this.measure(), wait);
  }

  /** Try again what was refused or failed, but not before the time that the server asked for. */
  again(): void {
    const troubled = [...this._state.lines].filter(
      ([, { state, closed }]) =>
        state === 'unexplained' || (state === 'parked' && closed && !isMissing(closed))
    );
    for (const [path] of troubled) {
      this._options.connections.release(path);
    }
    this._documents.reconnect();
  }

  /** Do not wait any longer where that is long. What is too early is refused again. */
  hurry(): void {
    for (const path of [...this._state.lines].filter(([, line]) => isLong(line)).map(([path]) => path)) {
      this._options.connections.release(path);
    }
  }

  /** What can be done about what is worst, also when the user has put its notice away. */
  get remedy(): Action | null {
    const worst = this._view.holding.find(notice => notice.topic === this._view.word);
    return worst ? this._action(worst) : null;
  }

  /** The user wants to sign in again. */
  async signIn(): Promise<void> {
    const { server, trans, ask } = this._options;
    const title = trans.__('Sign in again');
    this._declined = null;
    if (!server.foreign) {
      const address = server.loginAddress();
      if (!this._signIn.begin(address)) {
        const body = trans.__('Your browser did not open a window for the login. Open it here:');
        await ask.tell(title, body, await address);
      }
      return;
    }
    const token = await ask.token(title, trans.__('A token of %1', server.base));
    if (token && !(await server.tryToken(token))) {
      await ask.tell(title, trans.__('The server does not take this token.'));
    } else if (token) {
      await this._signIn.now(true);
    }
  }

  /** Somebody signed in who is not whose page this is. Asked once, until the user wants to sign in again. */
  private async _agrees(user: string): Promise<boolean> {
    const { trans, ask } = this._options;
    if (user === this._declined) {
      return false;
    }
    const agreed = await ask.confirm(
      trans.__('Another user'),
      trans.__(
        'You are now signed in as %1. What is on this page was opened by another user. Go on as %1?',
        user
      ),
      trans.__('Go on as %1', user)
    );
    this._declined = agreed ? null : user;
    return agreed;
  }

  private _signedIn(): void {
    const { connections } = this._options;
    for (const [path, closed] of connections.parked()) {
      if (closed.advice === 'authenticate') {
        connections.release(path);
      }
    }
    this._documents.reconnect();
    // JupyterLab asks more and more seldom as long as it is refused. Not at once: it would drop the kernels
    // that are gone before their sockets have heard it, and nobody would be told.
    setTimeout(() => void this._documents.refresh(), REFRESH);
  }

  private async _otherServer(): Promise<void> {
    const { server, trans, ask } = this._options;
    const title = trans.__('Go to your server');
    const address = await server.otherServer();
    if (!address) {
      await ask.tell(title, trans.__('This server does not say where yours is. Ask whoever runs it.'));
    } else if (
      await ask.confirm(
        title,
        trans.__('Your server is said to be at %1. Open it only if you know this address.', address),
        trans.__('Open')
      )
    ) {
      window.open(address, '_blank', 'noopener');
    }
  }

  private async _startKernels(): Promise<void> {
    const paths = [...this._state.lost].filter(([, lost]) => lost.replaceable).map(([path]) => path);
    for (const path of await this._documents.replace(paths)) {
      this._options.connections.release(path);
    }
  }

  /** What uses a path, or did. */
  private _nameOf(path: string): string | null {
    return this._documents.nameOf(path) ?? this._state.lost.get(path)?.name ?? null;
  }

  private _action(notice: Notice): Action | null {
    const { trans } = this._options;
    switch (notice.topic) {
      case 'signed_out':
        return { label: trans.__('Sign in again'), once: false, run: () => void this.signIn() };
      case 'other_server':
        return { label: trans.__('Go to your server'), once: false, run: () => void this._otherServer() };
      case 'gone':
        return {
          label: trans._n('Start a new kernel', 'Start new kernels', notice.count),
          once: true,
          run: () => void this._startKernels()
        };
      case 'stopped':
      case 'not_attempted':
      case 'blocked':
      case 'down':
        return { label: trans.__('Try again'), once: false, run: () => this.again() };
      case 'waiting':
        return notice.long ? { label: trans.__('Try again'), once: false, run: () => this.hurry() } : null;
      case 'ended':
      case 'cut':
        return null;
    }
  }

  private _render(): void {
    const { show, trans, server } = this._options;
    const wasDown = this._view.word === 'down';
    this._view = view(this._state, now());
    this._board.show(this._notices ? this._view.notices : []);
    this._signIn.wanted = this._view.ask;
    show({
      view: this._view,
      word: words.state(this._view, trans),
      roundTrip: this._roundTrip === null ? '' : words.milliseconds(this._roundTrip, trans),
      server: server.base,
      rows: rows(
        this._state,
        now(),
        path => words.pathName(path, one => this._nameOf(one), trans),
        line => words.lineState(line, now(), trans)
      )
    });
    clearTimeout(this._timer);
    if (this._view.next !== null) {
      this._timer = setTimeout(() => this._render(), Math.max(0, this._view.next - now()) * 1000);
    }
    if (!wasDown && this._view.word === 'down') {
      void this._measureLater();
    }
  }
}

function now(): number {
  return performance.now() / 1000;
}
