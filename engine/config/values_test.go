package config

import (
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "1": 1, "512B": 512, "1KiB": 1024, "3MiB": 3 << 20, "4GiB": 4 << 30, "2TiB": 2 << 40,
		"9223372036854775807": 1<<63 - 1, "8388607TiB": 8388607 << 40, "007KiB": 7 << 10,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", text, got, err, want)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                      `"" is no size: write a number with KiB`,
		"12XB":                  `"12XB" is no size: write a number with KiB, MiB, GiB or TiB, as in "4GiB"`,
		"KiB":                   `"KiB" is no size`,
		"-1":                    `"-1" is no size`,
		"+1":                    `"+1" is no size`,
		"1 KiB":                 `"1 KiB" is no size`,
		"1.5GiB":                `"1.5GiB" is no size`,
		"1KiB ":                 `"1KiB " is no size`,
		"0x10":                  `"0x10" is no size`,
		"1_000":                 `"1_000" is no size`,
		"4G":                    `"4G" is no size: sizes are powers of two, write "4GiB"`,
		"4gb":                   `"4gb" is no size: sizes are powers of two, write "4GiB"`,
		"4kib":                  `"4kib" is no size: sizes are powers of two, write "4KiB"`,
		"8388608TiB":            `"8388608TiB" is larger than any disk`,
		"9223372036854775808":   `"9223372036854775808" is larger than any disk`,
		"99999999999999999999B": `"99999999999999999999B" is larger than any disk`,
		"18014398509481984KiB":  `"18014398509481984KiB" is larger than any disk`, // 2^64: would wrap to 0
	} {
		if n, err := ParseSize(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %d %v, want %s", text, n, err, want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1: "1B", 1000: "1000B", 1024: "1KiB", 1536: "1536B", 3 << 20: "3MiB", 1 << 30: "1GiB", 5 << 40: "5TiB",
		1<<40 + 1<<30: "1025GiB",
	} {
		same(t, "size", FormatSize(n), want)
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"0", "12XB", "4GiB", "8388607TiB", "18014398509481984KiB", "1000B", "9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			if _, ok := err.(*ValueError); !ok {
				t.Fatalf("%T", err)
			}
			return
		}
		if again, err := ParseSize(FormatSize(n)); err != nil || again != n || n > maxSize {
			t.Fatalf("%q is %d, written as %q it is %d %v", s, n, FormatSize(n), again, err)
		}
	})
}

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"tcp:127.0.0.1:10809":         "tcp:127.0.0.1:10809",
		"tcp:127.0.0.1:0":             "tcp:127.0.0.1:0",
		"tcp:127.0.0.1:010809":        "tcp:127.0.0.1:10809",
		"tcp:[::1]:10809":             "tcp:[::1]:10809",
		"tcp:[0:0::1]:10809":          "tcp:[::1]:10809",
		"tcp:[fe80::1%eth0]:1":        "tcp:[fe80::1%eth0]:1",
		"tcp:Storage-1.example.:1":    "tcp:storage-1.example.:1",
		"tcp:0.0.0.0:10809":           "tcp:0.0.0.0:10809",
		"unix:/run/s":                 "unix:/run/s",
		"unix:s":                      "unix:/dir/s",
		"unix:../a//b/./s":            "unix:/a/b/s",
		"unix:@s":                     "unix:/dir/@s", // a file, not an abstract socket
		"unix:a:b":                    "unix:/dir/a:b",
		"unix:" + long(maxUnixPath):   "unix:" + long(maxUnixPath),
		"unix:/x/../" + long(107)[1:]: "unix:" + long(107),
	} {
		a, err := ParseAddress("/dir", text)
		if err != nil || a.String() != want {
			t.Errorf("%s: %s %v, want %s", text, a, err, want)
		}
		if again, err := ParseAddress("/other", a.String()); err != nil || again != a {
			t.Errorf("%s: read again it is %s %v", a, again, err)
		}
	}
}

// long is an absolute path of n bytes.
func long(n int) string { return "/" + strings.Repeat("s", n-1) }

func TestParseAddressRefuses(t *testing.T) {
	for _, text := range []string{
		"", ":", "tcp", "tcp:", "tcp:h", "tcp:h:", "tcp:h:x", "tcp:h:65536", "tcp:h:-1", "tcp:h:+1", "tcp::1",
		"tcp:::1:1", "tcp:[::1]", "tcp:[::1:1", "tcp:[]:1", "tcp:1.2.3:1", "tcp:256.1.1.1:1", "tcp:a..b:1", "tcp:-a:1",
		"tcp:a-:1", "tcp:a b:1", "tcp:a/b:1", "tcp:" + strings.Repeat("a", 64) + ":1", "tcp:" + strings.Repeat("a.", 127) + "a:1",
		"unix:", "unix:a\x00", "unix:a/", "unix:" + long(maxUnixPath+1), "tls:h:1", "TCP:h:1", "udp:h:1", "h:1", "/run/s",
	} {
		if a, err := ParseAddress("/dir", text); err == nil {
			t.Errorf("%q is taken as %s", text, a)
		} else if a != (Address{}) || err.(*ValueError).Fix == "" {
			t.Errorf("%q: %v %v", text, a, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		"unix:/s": true, "tcp:127.0.0.1:1": true, "tcp:127.9.9.9:1": true, "tcp:[::1]:1": true, "tcp:localhost:1": true,
		"tcp:[::ffff:127.0.0.1]:1": true, "tcp:0.0.0.0:1": false, "tcp:[::]:1": false, "tcp:192.0.2.1:1": false,
		"tcp:example:1": false,
	} {
		a, err := ParseAddress("/", text)
		if err != nil {
			t.Fatal(err)
		}
		same(t, text, a.Loopback(), want)
	}
	same(t, "no address", Address{}.Loopback(), false)
	same(t, "no address in words", Address{}.String(), "")
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", 90 * time.Minute: "1h30m", 10 * time.Millisecond: "10ms", 10 * time.Second: "10s",
		0: "0s", time.Hour + 10*time.Second: "1h0m10s", 10 * time.Minute: "10m",
	} {
		same(t, "duration", formatDuration(d), want)
	}
}

func TestOptionTypes(t *testing.T) {
	option := func(v any) Option { return Option{Key: "k", Value: v} }
	size, err := option(int64(4096)).Size()
	check(t, "integer as size", size, err, 4096)
	size, err = option("4KiB").Size()
	check(t, "string as size", size, err, 4096)
	text, err := option("t").Text()
	check(t, "text", text, err, "t")
	yes, err := option(true).Bool()
	check(t, "boolean", yes, err, true)
	n, err := option(int64(-3)).Int()
	check(t, "integer", n, err, -3)
	x, err := option(int64(3)).Float()
	check(t, "integer as number", x, err, 3.0)
	x, err = option(0.5).Float()
	check(t, "number", x, err, 0.5)
	d, err := option("2s").Duration(time.Minute)
	check(t, "duration", d, err, 2*time.Second)
	path, err := option("d/../disk.img").Path("/etc/engine")
	check(t, "relative path", path, err, "/etc/engine/disk.img")
	path, err = option("/disk.img").Path("/etc/engine")
	check(t, "absolute path", path, err, "/disk.img")
}

func check[T comparable](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if err != nil || got != want {
		t.Errorf("%s: %v %v, want %v", what, got, err, want)
	}
}

func TestOptionTypesRefused(t *testing.T) {
	text, number := Option{Value: "x"}, Option{Value: 1.5}
	_, err := number.Size()
	wants(t, err, "is the number 1.5, not a size")
	_, err = Option{Value: int64(-1)}.Size()
	wants(t, err, "-1 is negative")
	_, err = number.Text()
	wants(t, err, "is the number 1.5, not a string: put it in quotes")
	_, err = text.Bool()
	wants(t, err, `is the string "x", not a boolean`)
	_, err = number.Int()
	wants(t, err, "is the number 1.5, not an integer")
	_, err = text.Float()
	wants(t, err, `is the string "x", not a number`)
	_, err = number.Duration(time.Second)
	wants(t, err, "is the number 1.5, not a duration")
	_, err = Option{Value: "2s"}.Duration(time.Second)
	wants(t, err, `"2s" is too long: write "1s" or less`)
	_, err = number.Path("/")
	wants(t, err, "is the number 1.5, not a path")
	_, err = Option{Value: ""}.Path("/")
	wants(t, err, "is an empty path")
}

func wants(t *testing.T, err error, prefix string) {
	t.Helper()
	if _, ok := err.(*ValueError); !ok || !strings.HasPrefix(err.Error(), prefix) {
		t.Errorf("got %v, want %s", err, prefix)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"name", "plugin", "read_only", "timeout", "on_lost_cache"}
	for word, want := range map[string]string{
		"nmae": "name", "Name": "name", "readonly": "read_only", "read-only": "read_only", "timout": "timeout",
		"time_out": "timeout", "onlostcache": "on_lost_cache", "plugins": "plugin", "size": "", "x": "", "": "",
		strings.Repeat("n", maxName+1): "",
	} {
		same(t, word, nearest(word, known), want)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1}, {"abc", "axc", 1},
		{"kitten", "sitting", 3}, {"abcdef", "", 5}} {
		same(t, c.a+" "+c.b, distance(c.a, c.b, 5), c.want)
		same(t, c.b+" "+c.a, distance(c.b, c.a, 5), c.want)
	}
}

func TestQuoteIsShort(t *testing.T) {
	got := quote(strings.Repeat("é", 1000))
	same(t, "quoted", got, `"`+strings.Repeat("é", maxQuoted/2)+`"…`)
	got = quote("a" + strings.Repeat("é", 1000)) // the cut falls into a letter
	same(t, "quoted", got, `"a`+strings.Repeat("é", maxQuoted/2-1)+`"…`)
}
