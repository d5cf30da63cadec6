package process

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Limits on what a plugin may say. Lines beyond their rate are dropped and
// counted; bytes beyond theirs are not read, and the plugin waits: a flood costs
// the plugin its time and the engine nothing.
const (
	maxLine   = 512      // bytes of a line that are kept
	lineBurst = 64       // lines at once
	lineRate  = 10       // lines a second after that
	byteBurst = 1 << 20  // bytes at once
	byteRate  = 1 << 20  // bytes a second after that
	readChunk = 32 << 10 // bytes read at once
)

// bucket is a rate limit.
type bucket struct {
	burst, rate float64
	tokens      float64
	last        time.Time
}

func newBucket(burst, rate float64) bucket { return bucket{burst: burst, rate: rate, tokens: burst} }

func (b *bucket) fill(now time.Time) {
	if !b.last.IsZero() {
		b.tokens = min(b.burst, b.tokens+now.Sub(b.last).Seconds()*b.rate)
	}
	b.last = now
}

// words brings what a plugin's processes say to the log.
type words struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	lines   bucket
	dropped uint64
}

func newWords(log *slog.Logger) *words {
	return &words{log: log, lines: newBucket(lineBurst, lineRate)}
}

func (w *words) line(text string) {
	w.mu.Lock()
	w.lines.fill(time.Now())
	if w.lines.tokens < 1 {
		w.dropped++
		w.mu.Unlock()
		return
	}
	w.lines.tokens--
	dropped := w.dropped
	w.dropped = 0
	w.mu.Unlock()
	if dropped > 0 {
		w.log.Warn("plugin wrote", "line", text, "dropped_before", dropped)
		return
	}
	w.log.Warn("plugin wrote", "line", text)
}

// voice is one stream of a process: its lines go to words, and it remembers the
// line that says most of why the process ended.
type voice struct {
	words *words

	mu    sync.Mutex // guards what follows
	part  []byte     // of the unfinished line, maxLine at most
	bytes bucket
	said  string // the last line, or the one that a Go program dies with
	final bool   // said is that
}

func newVoice(w *words) *voice { return &voice{words: w, bytes: newBucket(byteBurst, byteRate)} }

// Write takes what the process has written, and takes its time if that is much.
func (v *voice) Write(b []byte) (int, error) {
	v.mu.Lock()
	v.bytes.fill(time.Now())
	v.bytes.tokens -= float64(len(b))
	wait := time.Duration(-v.bytes.tokens / byteRate * float64(time.Second))
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		v.part = append(v.part, line[:min(len(line), maxLine-len(v.part))]...)
		if ended {
			v.end()
		}
		rest = after
	}
	v.mu.Unlock()
	if wait > 0 {
		time.Sleep(min(wait, time.Second))
	}
	return len(b), nil
}

// end ends a line. v.mu is held.
func (v *voice) end() {
	text := shown(string(bytes.TrimSpace(v.part)), maxLine)
	v.part = v.part[:0]
	if text == "" {
		return
	}
	deadly := bytes.HasPrefix([]byte(text), []byte("panic: ")) || bytes.HasPrefix([]byte(text), []byte("fatal error: "))
	if !v.final {
		v.said, v.final = text, deadly
	}
	v.words.line(text)
}

// close ends the last line.
func (v *voice) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.end()
}

// last is what the process said last, or died with.
func (v *voice) last() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.said
}

// listen brings a pipe to a voice until it is closed.
func (v *voice) listen(r io.Reader) {
	buf := make([]byte, readChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			_, _ = v.Write(buf[:n])
		}
		if err != nil {
			v.close()
			return
		}
	}
}

// slowly reads no faster than a voice does: it is for what others read.
type slowly struct {
	io.ReadCloser
	bytes bucket
}

func (s *slowly) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b[:min(len(b), readChunk)])
	s.bytes.fill(time.Now())
	s.bytes.tokens -= float64(n)
	if s.bytes.tokens < 0 {
		time.Sleep(min(time.Second, time.Duration(-s.bytes.tokens/byteRate*float64(time.Second))))
	}
	return n, err
}
