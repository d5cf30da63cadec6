;; Does what it should: the skeleton itself is sound.
