/**
 * Shows notices as JupyterLab's notifications, and nothing else: which there are is decided elsewhere.
 */

import type { Notification, NotificationManager } from '@jupyterlab/apputils';
import type { Notice, Topic } from './state.js';

/** What can be done about a notice. */
export interface Action {
  readonly label: string;
  readonly run: () => void;
  /** Whether the notice goes as soon as this was chosen; otherwise it goes when its reason does. */
  readonly once: boolean;
}

export interface NoticeBoardOptions {
  readonly manager: Pick<NotificationManager, 'notify' | 'update' | 'dismiss' | 'changed'>;
  readonly sentence: (notice: Notice) => string;
  readonly action: (notice: Notice) => Action | null;
  /** The user put a notice away. */
  readonly onDismissed: (topic: Topic) => void;
}

interface Shown {
  readonly id: string;
  readonly message: string;
  /** The sentence but for the seconds in it, and what can be done. */
  readonly gist: string;
}

const TYPES: Readonly<Record<Topic, Notification.TypeOptions>> = {
  signed_out: 'warning',
  other_server: 'info',
  gone: 'warning',
  ended: 'info',
  stopped: 'error',
  not_attempted: 'error',
  blocked: 'error',
  down: 'error',
  waiting: 'info',
  cut: 'warning'
};

export class NoticeBoard {
  private readonly _shown = new Map<Topic, Shown>();
  private readonly _options: NoticeBoardOptions;

  constructor(options: NoticeBoardOptions) {
    this._options = options;
    options.manager.changed.connect((_, { type, notification }) => {
      if (type === 'removed') {
        this._removed(notification.id);
      }
    });
  }

  /** Show these, and no others. */
  show(notices: readonly Notice[]): void {
    const topics = new Set(notices.map(notice => notice.topic));
    for (const [topic, { id }] of [...this._shown]) {
      if (!topics.has(topic)) {
        this._shown.delete(topic);
        this._options.manager.dismiss(id);
      }
    }
    for (const notice of notices) {
      this._show(notice);
    }
  }

  private _show(notice: Notice): void {
    const { manager, sentence } = this._options;
    const shown = this._shown.get(notice.topic);
    const message = sentence(notice);
    const gist = `${sentence({ ...notice, seconds: 0 })} ${this._options.action(notice)?.label ?? ''}`;
    if (!shown) {
      const id = manager.notify(message, TYPES[notice.topic], {
        autoClose: false,
        actions: this._actions(notice)
      });
      this._shown.set(notice.topic, { id, message, gist });
    } else if (shown.gist !== gist || (shown.message !== message && quieten(shown.id))) {
      this._shown.set(notice.topic, { id: shown.id, message, gist });
      // Without `autoClose` and such the update would show it as it pleases.
      manager.update({ id: shown.id, message, autoClose: false, actions: this._actions(notice) });
    }
  }

  private _actions(notice: Notice): Notification.IAction[] {
    const action = this._options.action(notice);
    if (!action) {
      return [];
    }
    const callback = (event: MouseEvent): void => {
      if (!action.once) {
        event.preventDefault();
      }
      action.run();
    };
    return [{ label: action.label, displayType: 'accent', callback }];
  }

  private _removed(id: string): void {
    for (const [topic, shown] of this._shown) {
      if (shown.id === id) {
        this._shown.delete(topic);
        this._options.onDismissed(topic);
        return;
      }
    }
  }
}

/**
 * Only the seconds change. A notification that the user has hidden would come back with every update, and
 * screen readers would read all of it each second: nothing for the one, silence for the other.
 *
 * @returns whether it is on the screen
 */
function quieten(id: string): boolean {
  const toast = document.getElementById(id);
  toast?.querySelector('[role=alert]')?.setAttribute('aria-live', 'off');
  return toast !== null;
}
