package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"blockengine/engine/sys"
)

const (
	chunkSize = 256 << 10
	maxChunks = 64
)

// Options of a recorder.
type Options struct {
	Header  Header
	Secrets [][]byte // values that must not be in the file
	Limit   int64    // bytes of the file; what comes then is not kept
}

// Recorder writes a file. Its taps are used on reactors and never wait: they
// fill chunks, which a goroutine of the recorder writes. When there is no chunk
// left the recording of that connection ends with a mark.
type Recorder struct {
	o     Options
	w     io.Writer
	head  []byte // not written yet
	began int64
	conns atomic.Uint32
	lost  atomic.Uint32
	made  atomic.Int32 // chunks
	free  chan *chunk
	full  chan *chunk
	over  chan struct{} // closed when nothing more is written
	stop  sync.Once
	ended chan struct{} // closed when the goroutine has ended
	wrote int64
	err   error // the goroutine's, until ended
}

type chunk struct{ b []byte }

// ErrLimit says that a recording has got as long as it may.
var ErrLimit = errors.New("the recording is as long as it may be")

// NewRecorder makes a recorder, whose taps can be used at once. Nothing is written
// before Start.
func NewRecorder(w io.Writer, o Options) (*Recorder, error) {
	head, err := appendHead(nil, &o.Header)
	return &Recorder{o: o, w: w, head: head, began: sys.Nanotime(), free: make(chan *chunk, maxChunks),
		full: make(chan *chunk, maxChunks), over: make(chan struct{}), ended: make(chan struct{})}, err
}

// Start begins to write. Finish ends it.
func (r *Recorder) Start() { go r.write() }

// Over is closed when nothing more can be written: the file has its full length,
// or its writer has failed.
func (r *Recorder) Over() <-chan struct{} { return r.over }

// get gives an empty chunk, nil if all are under way.
func (r *Recorder) get() *chunk {
	select {
	case c := <-r.free:
		return c
	default:
	}
	if r.made.Add(1) > maxChunks {
		r.made.Add(-1)
		return nil
	}
	return &chunk{make([]byte, 0, chunkSize)}
}

// put hands a chunk to be written. There is room for all that there are.
func (r *Recorder) put(c *chunk) { r.full <- c }

// write writes chunks until Finish.
func (r *Recorder) write() {
	defer close(r.ended)
	n, err := r.w.Write(r.head)
	r.wrote, r.err = int64(n), err
	for c := range r.full {
		if r.err == nil {
			r.err = r.out(c.b)
		}
		if r.err != nil { // of the beginning, too: there is a first chunk
			r.stop.Do(func() { close(r.over) })
		}
		c.b = c.b[:0]
		r.free <- c
	}
}

// out writes whole records, without secrets, up to the limit.
func (r *Recorder) out(b []byte) error {
	for at := 0; at < len(b); at += 8 + int(le.Uint32(b[at:])) {
		body := b[at+recordHead : at+8+int(le.Uint32(b[at:]))]
		for _, s := range r.o.Secrets {
			blank(body, s)
		}
	}
	seal(b)
	if r.o.Limit > 0 && r.wrote+int64(len(b)) > r.o.Limit {
		return ErrLimit
	}
	n, err := r.w.Write(b)
	r.wrote += int64(n)
	return err
}

// blank replaces a secret by stars. Short ones stand for themselves too often;
// of those only the option is blanked.
func blank(b, secret []byte) {
	if len(secret) < minSecret {
		return
	}
	for {
		i := bytes.Index(b, secret)
		if i < 0 {
			return
		}
		star(b[i : i+len(secret)])
		b = b[i+len(secret):]
	}
}

const minSecret = 4

func star(b []byte) {
	for i := range b {
		b[i] = '*'
	}
}

// Finish ends the file when all taps have been closed. It is called once.
func (r *Recorder) Finish(t Trailer) (Trailer, error) {
	close(r.full)
	<-r.ended
	t.Connections, t.Lost = r.conns.Load(), r.lost.Load()
	if r.err != nil && !errors.Is(r.err, ErrLimit) {
		return t, r.err
	}
	if r.err != nil {
		t.Reason = r.err.Error()
	}
	text, err := json.Marshal(&t)
	if err != nil {
		return t, err
	}
	b := appendRecord(nil, kindEnd, 0, 0, sys.Nanotime()-r.began, text)
	seal(b)
	_, err = r.w.Write(b)
	return t, err
}
