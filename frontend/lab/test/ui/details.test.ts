import { expect, it, vi } from 'vitest';
import { Details, rows, StatusItem, type Labels, type Picture } from '../../src/ui/details.js';
import { reduce, START, view, type Word } from '../../src/ui/state.js';
import { EVENTS, kernel, open, parked, terminal, unexplained, waiting } from './events.js';

const labels: Labels = {
  connection: 'Connection',
  state: 'State',
  server: 'Server',
  roundTrip: 'Round trip',
  none: 'None',
  details: 'Click'
};

function picture(word: Word, more: Partial<Picture> = {}): Picture {
  const server = 'https://host/';
  return { view: { ...view(START, 0), word }, rows: [], word: `<${word}>`, roundTrip: '', server, ...more };
}

it('troubled connections come first, and forgotten ones not at all', () => {
  const events = [
    open(terminal(2)),
    open(EVENTS),
    parked(kernel(9), 'forbidden'),
    parked(kernel(1), 'forbidden'),
    waiting('x', 'unavailable', 1),
    unexplained('y', 'unknown')
  ];
  const state = events.reduce((before, event) => reduce(before, event, 0), START);
  const shown = rows(
    state,
    100,
    path => path,
    line => line.state
  );
  expect(shown.map(row => [row.path, row.words])).toEqual([
    [kernel(1), 'parked'],
    [kernel(9), 'parked'],
    [EVENTS, 'open'],
    [terminal(2), 'open']
  ]);
});

it('what is lost stays among them though nobody tries to reach it any more', () => {
  const events = [
    { kind: 'lost', path: kernel(1), lost: { topic: 'gone', name: 'a', replaceable: true } },
    { kind: 'lost', path: terminal(1), lost: { topic: 'ended', name: '', replaceable: false } },
    { kind: 'lost', path: kernel(2), lost: { topic: 'gone', name: 'b', replaceable: true } },
    parked(kernel(2), 'not_found')
  ] as const;
  const state = events.reduce((before, event) => reduce(before, event, 0), START);
  const shown = rows(
    state,
    0,
    path => path,
    line => line.closed?.slug ?? ''
  );
  expect(shown.map(row => [row.path, row.state, row.words])).toEqual([
    [kernel(1), 'parked', 'gone'],
    [kernel(2), 'parked', 'not_found'],
    [terminal(1), 'parked', 'not_found']
  ]);
});

it('the status item is a button with a name, and says changes only', () => {
  const click = vi.fn();
  const drawn: Word[] = [];
  const item = new StatusItem(labels, (_, word) => drawn.push(word), click);
  const button = item.node.querySelector('button')!;
  const spoken = item.node.querySelector('[role=status]')!;
  item.show(picture('connected'));
  expect(spoken.textContent).toBe('');
  expect(button.getAttribute('aria-label')).toBe('Connection: <connected>');
  expect(button.querySelector('.jp-TokenWs-word')!.textContent).toBe('<connected>');
  item.show(picture('connected', { roundTrip: '3 ms' }));
  expect(button.getAttribute('aria-label')).toBe('Connection: <connected>, 3 ms');
  expect(button.textContent).toBe('<connected>, 3 ms');
  expect(spoken.textContent).toBe('');
  item.show(picture('signed_out', { roundTrip: '3 ms' }));
  expect(button.dataset.state).toBe('signed_out');
  expect(button.textContent).toBe('<signed_out>');
  expect(spoken.textContent).toBe('Connection: <signed_out>');
  item.show(picture('connected', { roundTrip: '3 ms' }));
  expect(spoken.textContent).toBe('Connection: <connected>');
  expect(drawn).toEqual(['connected', 'signed_out', 'connected']);
  button.click();
  expect(click).toHaveBeenCalledOnce();
});

it('a word that stays is not announced again, whatever else changes', () => {
  const item = new StatusItem(labels, () => undefined, vi.fn());
  const spoken = item.node.querySelector('[role=status]')!;
  item.show(picture('connected'));
  item.show(picture('waiting'));
  const text = spoken.firstChild;
  item.show(picture('waiting', { roundTrip: '3 ms' }));
  expect(spoken.firstChild).toBe(text);
});

it('the details are a table, as plain text', () => {
  const details = new Details(labels);
  const evil = '<img src=x onerror=alert(1)>';
  details.show(
    picture('stopped', {
      roundTrip: '3 ms',
      rows: [{ path: kernel(1), state: 'parked', name: evil, words: evil }]
    })
  );
  const row = details.node.querySelector<HTMLElement>('tbody tr')!;
  expect({ ...row.dataset }).toEqual({ path: kernel(1), state: 'parked' });
  expect([...row.children].map(cell => cell.textContent)).toEqual([evil, evil]);
  expect(details.node.querySelector('img')).toBe(null);
  expect([...details.node.querySelectorAll('dd')].map(node => node.textContent)).toEqual([
    '<stopped>',
    'https://host/',
    '3 ms'
  ]);
  expect(details.node.querySelector('table')!.hidden).toBe(false);
  expect(details.node.querySelector('p')!.hidden).toBe(true);
});

it('the details of nothing say so', () => {
  const details = new Details(labels);
  details.show(picture('idle'));
  expect(details.node.querySelector('table')!.hidden).toBe(true);
  expect(details.node.querySelector('p')!.hidden).toBe(false);
  expect(details.node.querySelectorAll('dd')[2]!.textContent).toBe('–');
});
