package sdktest

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"time"
)

// babbled is about how much a server makes up on one connection.
const babbled = 8 << 10

// babble is a server that answers everything with bytes of its own making:
// random ones, runs of one value, and numbers that are often not looked at.
func babble(seed uint64) Server {
	rnd := rand.New(rand.NewPCG(seed, 4))
	left := babbled
	return Answers(func([]byte) ([]byte, bool) {
		n := min(rnd.IntN(400), left)
		left -= n
		b := make([]byte, n)
		for i := 0; i < n; {
			i += copy(b[i:], word(rnd))
		}
		return b, left == 0 || rnd.IntN(40) == 0
	})
}

// word is a small piece of what a liar says.
func word(rnd *rand.Rand) []byte {
	var b [8]byte
	switch rnd.IntN(6) {
	case 0: // zeroes
	case 1:
		return []byte("\xff\xff\xff\xff\xff\xff\xff\xff")[:1+rnd.IntN(8)]
	case 2:
		binary.LittleEndian.PutUint64(b[:], 1<<rnd.IntN(64)-uint64(rnd.IntN(2)))
	case 3:
		binary.BigEndian.PutUint64(b[:], 1<<rnd.IntN(64)-uint64(rnd.IntN(2)))
	case 4:
		return []byte([]string{"\r\n", "0", "-1", "9999999999999999999", "OK", "HTTP/1.1 200 OK\r\n", "+", "$", ":"}[rnd.IntN(9)])
	default:
		binary.LittleEndian.PutUint64(b[:], rnd.Uint64())
	}
	return b[:1+rnd.IntN(8)]
}

// lie stands between a plugin and an honest server and spoils some of what the
// server says.
func lie(honest Server, seed uint64) Server {
	rnd := rand.New(rand.NewPCG(seed, 6))
	return &liar{Server: honest, rnd: rnd, rare: 1 + rnd.IntN(12)}
}

type liar struct {
	Server
	rnd  *rand.Rand
	rare int // one lie in so many pieces
	gone bool
}

// lieWait is how long a liar waits for the honest server: both it and the
// plugin may wait for the other, once something has been spoilt.
const lieWait = 20 * time.Millisecond

func (l *liar) Recv(wait bool) ([]byte, error) {
	if l.gone {
		return nil, io.EOF
	}
	for end := time.Now().Add(lieWait); ; time.Sleep(200 * time.Microsecond) {
		b, err := l.Server.Recv(false)
		if len(b) > 0 && l.rnd.IntN(l.rare) == 0 {
			return l.spoil(b), nil
		}
		if len(b) > 0 || err != nil || !wait || time.Now().After(end) {
			return b, err
		}
	}
}

// spoil changes a piece of the stream.
func (l *liar) spoil(b []byte) []byte {
	b = append([]byte(nil), b...)
	at := l.rnd.IntN(len(b))
	if l.rnd.IntN(2) == 0 {
		at = l.rnd.IntN(min(len(b), 32)) // where headers are
	}
	switch l.rnd.IntN(7) {
	case 0:
		b[at] ^= 1 << l.rnd.IntN(8)
	case 1:
		copy(b[at:], word(l.rnd))
	case 2: // left out
		b = append(b[:at], b[min(at+1+l.rnd.IntN(8), len(b)):]...)
	case 3: // twice
		b = append(b, b[at:]...)
	case 4: // put in
		b = append(b[:at:at], append(word(l.rnd), b[at:]...)...)
	case 5: // cut off, and nothing more
		b, l.gone = b[:at], true
	default:
		for range 1 + l.rnd.IntN(8) {
			b[l.rnd.IntN(len(b))] = byte(l.rnd.Uint32())
		}
	}
	return b
}
