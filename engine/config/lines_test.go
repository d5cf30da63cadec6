package config

import (
	"os"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// keysHaveLines fails unless every key of the decoded value has a position in n
// whose line shows the key. It returns how many keys it saw.
func keysHaveLines(t *testing.T, lines []string, path string, v any, n *node) int {
	t.Helper()
	count := 0
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			c := n.child(key)
			if c == nil {
				t.Errorf("%s.%q has no position", path, key)
				continue
			}
			showsKey(t, lines, path, key, c.line)
			count += 1 + keysHaveLines(t, lines, path+"."+key, value, c)
		}
	case []map[string]any:
		for i := range v {
			count += keysHaveLines(t, lines, path+"[]", v[i], n.item(i))
		}
	case []any:
		for i := range v {
			if n.item(i) == nil {
				t.Errorf("%s[%d] has no position", path, i)
			}
			count += keysHaveLines(t, lines, path+"[]", v[i], n.item(i))
		}
	}
	return count
}

// showsKey fails if the line does not hold the key as it is or with escapes.
func showsKey(t *testing.T, lines []string, path, key string, line int) {
	t.Helper()
	if line < 1 || line > len(lines) {
		t.Errorf("%s.%q is at line %d of %d", path, key, line, len(lines))
		return
	}
	if text := lines[line-1]; !strings.Contains(text, key) && !strings.Contains(text, `\`) {
		t.Errorf("%s.%q is not on line %d: %s", path, key, line, text)
	}
}

// hasPath tells whether a key of the library's list has a position, in any
// element of the lists on its way.
func hasPath(n *node, key toml.Key) bool {
	if n == nil {
		return false
	}
	if len(key) == 0 {
		return n.line > 0
	}
	for _, item := range n.items {
		if hasPath(item, key) {
			return true
		}
	}
	return hasPath(n.child(key[0]), key[1:])
}

// checkLines compares the scan of a source with what the library decodes. It
// returns the number of keys, or -1 if the source is not for us to read.
func checkLines(t *testing.T, src string) int {
	t.Helper()
	root, _, err := scanLines(src)
	if _, refused := err.(*ValueError); refused {
		return -1
	}
	values := make(map[string]any)
	meta, decodeErr := toml.Decode(src, &values)
	if decodeErr != nil {
		return -1
	}
	if err != nil {
		t.Fatalf("the scan gave up on valid TOML: %v", err)
	}
	for _, key := range meta.Keys() {
		if !hasPath(root, key) {
			t.Errorf("key %s has no position", key)
		}
	}
	return keysHaveLines(t, strings.Split(src, "\n"), "", values, root)
}

func TestEveryKeyHasALine(t *testing.T) {
	for file, keys := range map[string]int{"testdata/full.toml": 64, "testdata/tricky.toml": 30} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := checkLines(t, string(src)); n != keys {
			t.Errorf("%s: %d keys compared, want %d", file, n, keys)
		}
		crlf := strings.ReplaceAll(string(src), "\n", "\r\n")
		if n := checkLines(t, "\xef\xbb\xbf"+crlf); n != keys {
			t.Errorf("%s with CRLF: %d keys compared, want %d", file, n, keys)
		}
	}
}

func TestLinesOfRepeatedKeys(t *testing.T) {
	src := "[[v]]\nn = 1\n[v.o]\nk = 1\n\n[[v]]\nn = 2\n[v.o]\nk = 2\n[[v.p]]\na=1\n[[v.p]]\n\na=1\n"
	root, _, err := scanLines(src)
	if err != nil {
		t.Fatal(err)
	}
	v := root.child("v")
	for _, c := range []struct {
		what string
		n    *node
		line int
	}{
		{"v[0]", v.item(0), 1},
		{"v[0].n", v.item(0).child("n"), 2},
		{"v[0].o", v.item(0).child("o"), 3},
		{"v[0].o.k", v.item(0).child("o").child("k"), 4},
		{"v[1]", v.item(1), 6},
		{"v[1].o.k", v.item(1).child("o").child("k"), 9},
		{"v[1].p[1]", v.item(1).child("p").item(1), 12},
		{"v[1].p[1].a", v.item(1).child("p").item(1).child("a"), 14},
	} {
		if c.n == nil || c.n.line != c.line {
			t.Errorf("%s: %+v, want line %d", c.what, c.n, c.line)
		}
	}
	if v.item(2) != nil || v.item(0).child("p").item(0).child("a") != nil {
		t.Error("positions of what is not there")
	}
}

// A hostile source is refused before the library, which would recurse and copy
// paths, sees it.
func TestScanRefusesDepth(t *testing.T) {
	long := strings.Repeat("k", maxKey+1)
	for name, src := range map[string]string{
		"lists":         "\na = " + strings.Repeat("[", 1<<19),
		"tables":        "\na = " + strings.Repeat("{a=", 1<<18),
		"key":           "\n" + strings.Repeat("a.", 1<<18) + "a = 1",
		"header":        "\n[" + strings.Repeat("a.", 1<<18) + "a]",
		"list of them":  "\n[[" + strings.Repeat("a.", 1<<18) + "a]]",
		"by and by":     "\n[a.b.c.d.e] \nf.g.h.i = 1",
		"long key":      "\n" + long + " = 1",
		"long header":   "\n[" + long + "]",
		"long quoted":   "\n\"" + long + "\" = 1",
		"long in table": "\na = {" + long + " = 1}",
	} {
		_, err := Parse("f", []byte(src))
		ps, ok := err.(Problems)
		if !ok || len(ps) != 1 || ps[0].Line < 2 || !strings.Contains(ps[0].Msg, " too ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	deepest := "[a.b.c.d]\ne = [[{f = 1}]]\n"
	if n := checkLines(t, deepest); n != 6 {
		t.Errorf("%d keys in a source of the allowed depth, want 6", n)
	}
}
