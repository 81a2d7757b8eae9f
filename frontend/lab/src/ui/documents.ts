/**
 * What of this page uses which kernel or terminal, and how to give it a new one.
 *
 * Documents are recognised by what they have (a session context, a terminal session), not by their classes:
 * notebooks, consoles and those of other extensions are alike here, and nothing more needs to be loaded.
 */

import type { ISessionContext } from '@jupyterlab/apputils';
import type { Lost } from './state.js';
import { kernelId, kernelPath, terminalName } from './words.js';

/** The part of a connection to a kernel or terminal that is needed here. */
interface Connection {
  readonly connectionStatus?: string;
  reconnect?(): Promise<void>;
}

interface TerminalSession extends Connection {
  readonly name: string;
  readonly isDisposed: boolean;
}

type SessionChange = Pick<
  Parameters<Parameters<ISessionContext['sessionChanged']['connect']>[0]>[1],
  'oldValue' | 'newValue'
>;

/** A widget as far as it may be one of those. */
export interface DocumentWidget {
  readonly isDisposed?: boolean;
  readonly sessionContext?: unknown;
  readonly context?: { readonly sessionContext?: unknown } | null;
  readonly content?: { readonly session?: unknown } | null;
}

export interface DocumentsOptions {
  readonly widgets: () => Iterable<DocumentWidget>;
  /** Have the page learn which sessions there still are. */
  readonly refresh: () => Promise<void>;
  /** Whether the server has this kernel, asked now. */
  readonly alive: (id: string) => Promise<boolean>;
  /** Milliseconds from the loss to saying so. */
  readonly grace?: number;
  /** Something of this page lost its kernel or terminal. */
  readonly onLost: (path: string, lost: Lost) => void;
  /** It has a new one, is closed, or never wanted it. `free`: nothing connects to this path any more. */
  readonly onSettled: (path: string, free: boolean) => void;
}

/**
 * JupyterLab shuts down old kernels when the user picks another one, and it finds out by itself that a kernel
 * has gone: what remains after so many milliseconds remains.
 */
const GRACE = 2_000;

export class Documents {
  private readonly _options: DocumentsOptions;
  /** The contexts that lost the kernel of a path. */
  private readonly _users = new Map<string, readonly ISessionContext[]>();
  /** Paths of which it was said, and those of which it is too early to say it. */
  private readonly _said = new Set<string>();
  private readonly _waiting = new Set<string>();
  /** Contexts that are listened to. */
  private readonly _seen = new WeakSet<ISessionContext>();
  /** Contexts whose session JupyterLab dropped, by the path of their kernel. */
  private readonly _dropped = new Map<string, ISessionContext[]>();
  /** Contexts whose kernel cannot be reached now, by its path, with their session. */
  private readonly _troubled = new Map<string, Map<ISessionContext, ISessionContext['session']>>();
  /** What this page itself asked the server to delete, by path. */
  private readonly _deleted = new Set<string>();

  constructor(options: DocumentsOptions) {
    this._options = options;
  }

  /** The name of what uses the kernel of `path`, if anything does. */
  nameOf(path: string): string | null {
    const [user] = this._users.get(path) ?? this._usersOf(path);
    return user ? nameOf(user) : null;
  }

  /** This page asks the server to delete something. */
  deletes(path: string): void {
    this._deleted.add(path);
  }

  /** The server says that the kernel or terminal of `path` is not there (any more). */
  missing(path: string): void {
    const id = kernelId(path);
    const terminal = terminalName(path);
    if (id !== null) {
      this._missingKernel(path);
    } else if (terminal !== null) {
      const sessions = this._terminals().filter(session => session.name === terminal);
      this._later(path, () => {
        if (sessions.some(session => !session.isDisposed)) {
          this._options.onLost(path, { topic: 'ended', name: terminal, replaceable: false });
        } else {
          this._options.onSettled(path, true);
        }
      });
    }
  }

  /** The kernel of `path` cannot be reached for now. */
  troubled(path: string): void {
    if (kernelId(path) === null) {
      return;
    }
    const users = this._troubled.get(path) ?? new Map<ISessionContext, ISessionContext['session']>();
    for (const user of this._usersOf(path)) {
      users.set(user, user.session);
    }
    if (users.size > 0) {
      this._troubled.set(path, users);
    }
  }

  /** The kernel of `path` is reached again, or was never missed. */
  settled(path: string): void {
    this._troubled.delete(path);
  }

  /**
   * JupyterLab does not try to reach the kernel of `path` any more. Where it found that the kernel is gone, no
   * socket will ever hear so.
   */
  abandoned(path: string): void {
    const id = kernelId(path);
    const users = this._troubled.get(path);
    this._troubled.delete(path);
    if (id === null || !users) {
      return;
    }
    for (const [context, session] of users) {
      if (!context.isTerminating && !this._isDeleted(session, id)) {
        this._lookLater(path, id, context);
      }
    }
  }

  /**
   * Start kernels like those that are gone.
   *
   * @returns the paths that nobody needs any more
   */
  async replace(paths: Iterable<string>): Promise<string[]> {
    const replaced: string[] = [];
    // Otherwise it would ask for a change in a session that the server has forgotten.
    await this.refresh();
    for (const path of paths) {
      const [first, ...others] = this._needing(path);
      this._forget(path);
      try {
        await first?.changeKernel(likeBefore(first));
        // Who shared the old one shares the new one.
        const id = first?.session?.kernel?.id;
        for (const other of others) {
          await other.changeKernel(id === undefined ? likeBefore(other) : { id });
        }
        replaced.push(path);
      } catch (error) {
        console.error(error); // JupyterLab has shown it in a dialog
      }
    }
    return replaced;
  }

  /** Have the page learn which sessions there still are, if the server says it. */
  refresh(): Promise<void> {
    return this._options.refresh().catch(() => undefined);
  }

  /** Have those connect again that JupyterLab gave up. */
  reconnect(): void {
    const kernels = this._contexts().map(context => context.session?.kernel);
    for (const connection of [...kernels, ...this._terminals()] as (Connection | null | undefined)[]) {
      if (connection?.connectionStatus === 'disconnected') {
        connection.reconnect?.().catch((error: unknown) => console.error(error));
      }
    }
  }

  private _missingKernel(path: string): void {
    const users = this._usersOf(path);
    const known = this._users.has(path);
    if (users.length === 0 && !known) {
      return; // whose it is cannot be told
    }
    this._users.set(path, [
      ...new Set([...(this._users.get(path) ?? []), ...users.filter(one => this._isSurprised(one))])
    ]);
    if (known) {
      return;
    }
    this._follow(path, users);
    this._later(path, () => this._look(path));
  }

  /**
   * JupyterLab dropped the session of a context: it looks now and then which there are, and may have found
   * that a kernel is gone before the kernel's socket has heard it.
   */
  private _drops(context: ISessionContext, { oldValue, newValue }: SessionChange): void {
    const id = oldValue?.kernel?.id;
    if (newValue || !oldValue || id === undefined || context.isTerminating || this._isDeleted(oldValue)) {
      return;
    }
    this._lookLater(kernelPath(id), id, context);
  }

  private _lookLater(path: string, id: string, context: ISessionContext): void {
    const others = this._dropped.get(path) ?? [];
    this._dropped.set(path, [...new Set([...others, context])]);
    this._later(path, () => void this._lookForDropped(path, id));
  }

  private async _lookForDropped(path: string, id: string): Promise<void> {
    const alive = await this._options.alive(id).catch(() => true);
    const users = this._dropped.get(path) ?? [];
    this._dropped.delete(path);
    if (!alive && !this._users.has(path)) {
      this._users.set(path, users);
      this._follow(path, users);
      this._look(path);
    }
  }

  private _follow(path: string, users: readonly ISessionContext[]): void {
    for (const context of users) {
      context.kernelChanged.connect(() => this._look(path));
      context.disposed.connect(() => this._look(path));
    }
  }

  /** Whether somebody still needs the kernel of `path`, once the time has come to say so. */
  private _look(path: string): void {
    if (this._waiting.has(path) || !this._users.has(path)) {
      return;
    }
    const [first, ...others] = this._needing(path);
    if (!first) {
      this._forget(path);
      this._options.onSettled(path, this._usersOf(path).length === 0);
    } else if (!this._said.has(path)) {
      this._said.add(path);
      const name = others.length === 0 ? nameOf(first) : '';
      this._options.onLost(path, { topic: 'gone', name, replaceable: true });
    }
  }

  private _forget(path: string): void {
    this._users.delete(path);
    this._said.delete(path);
  }

  private _needing(path: string): ISessionContext[] {
    const id = kernelId(path);
    return (this._users.get(path) ?? []).filter(context => {
      const now = context.session?.kernel?.id;
      return !context.isDisposed && (now === undefined || now === id);
    });
  }

  private _later(path: string, then: () => void): void {
    if (this._waiting.has(path)) {
      return;
    }
    this._waiting.add(path);
    setTimeout(() => {
      this._waiting.delete(path);
      then();
    }, this._options.grace ?? GRACE);
  }

  /** Whether it did not end its kernel itself, nor anything else of this page. */
  private _isSurprised(context: ISessionContext): boolean {
    return (
      !context.isTerminating &&
      context.kernelDisplayStatus !== 'starting' &&
      !this._isDeleted(context.session)
    );
  }

  /** `kernel`: the id of its kernel, where the session may not know it any more. */
  private _isDeleted(session: ISessionContext['session'], kernel = session?.kernel?.id): boolean {
    return this._deleted.has(`api/sessions/${session?.id}`) || this._deleted.has(`api/kernels/${kernel}`);
  }

  private _usersOf(path: string): ISessionContext[] {
    const id = kernelId(path);
    return this._contexts().filter(context => context.session?.kernel?.id === id);
  }

  private _contexts(): ISessionContext[] {
    const found = new Set<ISessionContext>();
    for (const widget of this._options.widgets()) {
      const context = (widget.sessionContext ?? widget.context?.sessionContext) as
        ISessionContext | undefined;
      if (!widget.isDisposed && context && 'changeKernel' in context) {
        found.add(context);
      }
    }
    for (const context of found) {
      if (!this._seen.has(context)) {
        this._seen.add(context);
        context.sessionChanged.connect((_, change) => this._drops(context, change));
      }
    }
    return [...found];
  }

  private _terminals(): TerminalSession[] {
    const found: TerminalSession[] = [];
    for (const widget of this._options.widgets()) {
      const session = (widget.isDisposed ? null : widget.content?.session) as
        TerminalSession | null | undefined;
      if (session && typeof session.name === 'string' && 'connectionStatus' in session) {
        found.push(session);
      }
    }
    return found;
  }
}

function nameOf(context: ISessionContext): string {
  return context.name || (context.path.split('/').pop() as string);
}

function likeBefore(context: ISessionContext): { name?: string } {
  const name = context.session?.kernel?.name || context.prevKernelName || context.kernelPreference.name;
  return name ? { name } : {};
}
