;; no-check
;; Writes to globals that it has not: one of them may be the budget that the
;; engine adds.
(func $request (param $p i32)
  (global.set 2 (i64.const 0x7fffffffffffffff))
  (global.set 3 (i64.const 0x7fffffffffffffff))
  (loop $l (br $l)))
