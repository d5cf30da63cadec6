package vmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
)

// errNoQMP says that the connection with QEMU has ended.
var errNoQMP = errors.New("QEMU's control connection is closed")

// QMPError is QEMU's refusal of a command.
type QMPError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *QMPError) Error() string { return fmt.Sprintf("QMP: %s (%s)", e.Desc, e.Class) }

// qmpMessage is whatever QEMU says: an event, an answer, or its greeting.
type qmpMessage struct {
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *QMPError       `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

// qmpConn is a control connection with QEMU (its docs/interop/qmp-spec).
type qmpConn struct {
	conn net.Conn
	gone chan struct{} // closed when there is nothing to be read any more

	mu      sync.Mutex // guards what follows; never held while waiting
	lastID  uint64
	answers map[uint64]chan qmpMessage
	events  []qmpMessage  // not taken by waitEvent yet
	news    chan struct{} // closed when an event comes, and replaced
}

// newQMP takes a connection over and leaves QEMU's negotiation stage.
func newQMP(ctx context.Context, c net.Conn) (*qmpConn, error) {
	q := &qmpConn{conn: c, gone: make(chan struct{}), answers: map[uint64]chan qmpMessage{}, news: make(chan struct{})}
	go q.receive()
	if _, err := q.execute(ctx, "qmp_capabilities", nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *qmpConn) receive() {
	defer close(q.gone)
	in := json.NewDecoder(bufio.NewReader(q.conn))
	for {
		var m qmpMessage
		if in.Decode(&m) != nil {
			return
		}
		q.take(m)
	}
}

// maxEvents bounds the events that are kept for a test that may ask for them.
const maxEvents = 1000

func (q *qmpConn) take(m qmpMessage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if m.Event != "" {
		if q.events = append(q.events, m); len(q.events) > maxEvents {
			q.events = q.events[1:]
		}
		close(q.news)
		q.news = make(chan struct{})
		return
	}
	if answer := q.answers[m.ID]; answer != nil {
		delete(q.answers, m.ID)
		answer <- m
	}
}

// execute sends a command and waits for its answer.
func (q *qmpConn) execute(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	answer := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.lastID++
	id := q.lastID
	q.answers[id] = answer
	q.mu.Unlock()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err == nil {
		_, err = q.conn.Write(append(line, '\n'))
	}
	if err != nil {
		return nil, err
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return nil, m.Error
		}
		return m.Return, nil
	case <-q.gone:
		return nil, errNoQMP
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// waitEvent waits for an event that matches, or has come since QEMU started and
// was not taken yet, and takes it.
func (q *qmpConn) waitEvent(ctx context.Context, name string, match func(json.RawMessage) bool) (json.RawMessage, error) {
	for {
		q.mu.Lock()
		i := slices.IndexFunc(q.events, func(m qmpMessage) bool {
			return m.Event == name && (match == nil || match(m.Data))
		})
		if i >= 0 {
			data := q.events[i].Data
			q.events = slices.Delete(q.events, i, i+1)
			q.mu.Unlock()
			return data, nil
		}
		news := q.news
		q.mu.Unlock()
		select {
		case <-news:
		case <-q.gone:
			return nil, errNoQMP
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (q *qmpConn) close() {
	q.conn.Close()
	<-q.gone
}

// QMP has QEMU execute a command and gives what it returns; a refusal fails the
// test. arguments are anything that makes a JSON object, or nil.
func (vm *VM) QMP(command string, arguments any) json.RawMessage {
	vm.t.Helper()
	answer, err := vm.TryQMP(command, arguments)
	if err != nil {
		vm.fatal("QMP %s: %v", command, err)
	}
	return answer
}

// TryQMP is [VM.QMP] that gives the refusal, a [*QMPError], to the test.
func (vm *VM) TryQMP(command string, arguments any) (json.RawMessage, error) {
	ctx, cancel := vm.bound(context.Background())
	defer cancel()
	return vm.qmp.execute(ctx, command, arguments)
}

// WaitEvent waits for an event of QEMU that was not taken yet and whose data
// match (nil: any), and gives its data.
func (vm *VM) WaitEvent(name string, match func(data json.RawMessage) bool) json.RawMessage {
	vm.t.Helper()
	ctx, cancel := vm.bound(context.Background())
	defer cancel()
	data, err := vm.qmp.waitEvent(ctx, name, match)
	if err != nil {
		vm.fatal("no event %s: %v", name, err)
	}
	return data
}

// Status is QEMU's word for what the guest does: "running", "paused", …
func (vm *VM) Status() string {
	vm.t.Helper()
	var s struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(vm.QMP("query-status", nil), &s); err != nil {
		vm.fatal("query-status: %v", err)
	}
	return s.Status
}
