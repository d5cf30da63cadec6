;; Tells of a disk that cannot be.
(func $opened
  (call $head (i64.const 16) (i64.const 80))
  (call $put (i64.const -1))
  (call $put (i64.const 0)) (call $put (i64.const 0)) (call $put (i64.const 0))
  (call $put (i64.const 3))
  (call $put (i64.const 0)) (call $put (i64.const 0)) (call $put (i64.const 0)) (call $put (i64.const 0)))
