BEGIN TRANSACTION;
CREATE TABLE attempt (
	run INTEGER NOT NULL,
	position INTEGER NOT NULL,
	number INTEGER NOT NULL,
	owner TEXT NOT NULL,
	state TEXT NOT NULL,
	started_at BIGINT NOT NULL,
	ended_at BIGINT,
	failure_class TEXT,
	message TEXT,
	details TEXT,
	findings TEXT,
	CONSTRAINT pk_attempt PRIMARY KEY (run, position, number)
)
 WITHOUT ROWID
;
INSERT INTO "attempt" VALUES(1,0,1,'w1','done',1362898860000000,1362898920000000,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(1,1,1,'w1','done',1362898860000000,1362898920000000,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(1,2,1,'w1','failed',1362898860000000,1362898920000000,'bug','it broke',NULL,NULL);
INSERT INTO "attempt" VALUES(2,0,1,'w1','done',1362898860000000,1362898920000000,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(3,0,1,'w2','running',1362899340000000,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE comparison (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	environment TEXT NOT NULL,
	base TEXT NOT NULL,
	at BIGINT NOT NULL,
	passed BOOLEAN NOT NULL,
	verdict TEXT NOT NULL,
	world TEXT NOT NULL,
	summary TEXT NOT NULL,
	report TEXT NOT NULL
);
INSERT INTO "comparison" VALUES(1,'fix','production',1362899160000000,TRUE,'as expected','{}','{}','{}');
CREATE TABLE environment (
	name TEXT NOT NULL,
	base TEXT,
	code TEXT NOT NULL,
	state TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	CONSTRAINT pk_environment PRIMARY KEY (name)
)
 WITHOUT ROWID
;
INSERT INTO "environment" VALUES('fix','production','git:fix','open',1362898800000000);
INSERT INTO "environment" VALUES('production',NULL,'','open',1362898800000000);
CREATE TABLE event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	at BIGINT NOT NULL,
	run INTEGER,
	kind TEXT NOT NULL,
	body TEXT NOT NULL
);
INSERT INTO "event" VALUES(1,1362898800000000,1,'RunStarted','{"type":"RunStarted","at":"2013-03-10T07:00:00Z","run":"1","environment":"production","steps":3,"tasks":{"t":2,"u":1}}');
INSERT INTO "event" VALUES(2,1362898860000000,1,'StepStarted','{"type":"StepStarted","at":"2013-03-10T07:01:00Z","run":"1","step":"s1","attempt":1}');
INSERT INTO "event" VALUES(3,1362898860000000,1,'StepStarted','{"type":"StepStarted","at":"2013-03-10T07:01:00Z","run":"1","step":"s3","attempt":1}');
INSERT INTO "event" VALUES(4,1362898920000000,1,'StepPublished','{"type":"StepPublished","at":"2013-03-10T07:02:00Z","run":"1","step":"s1","version":"v1","rows":2,"seconds":1.5}');
INSERT INTO "event" VALUES(5,1362898920000000,1,'StepFailed','{"type":"StepFailed","at":"2013-03-10T07:02:00Z","run":"1","step":"s3","attempt":1,"failure_class":"bug","message":"it broke","final":true}');
INSERT INTO "event" VALUES(6,1362898860000000,1,'StepStarted','{"type":"StepStarted","at":"2013-03-10T07:01:00Z","run":"1","step":"s2","attempt":1}');
INSERT INTO "event" VALUES(7,1362898920000000,1,'StepPublished','{"type":"StepPublished","at":"2013-03-10T07:02:00Z","run":"1","step":"s2","version":"v2","rows":2,"seconds":1.5}');
INSERT INTO "event" VALUES(8,1362898980000000,1,'RunEnded','{"type":"RunEnded","at":"2013-03-10T07:03:00Z","run":"1","state":"failed","published":2,"failed":1,"skipped":0}');
INSERT INTO "event" VALUES(9,1362899040000000,2,'RunStarted','{"type":"RunStarted","at":"2013-03-10T07:04:00Z","run":"2","environment":"fix","steps":1,"tasks":{"t":1}}');
INSERT INTO "event" VALUES(10,1362898860000000,2,'StepStarted','{"type":"StepStarted","at":"2013-03-10T07:01:00Z","run":"2","step":"s1","attempt":1}');
INSERT INTO "event" VALUES(11,1362898920000000,2,'StepPublished','{"type":"StepPublished","at":"2013-03-10T07:02:00Z","run":"2","step":"s1","version":"v3","rows":2,"seconds":1.5}');
INSERT INTO "event" VALUES(12,1362899100000000,2,'RunEnded','{"type":"RunEnded","at":"2013-03-10T07:05:00Z","run":"2","state":"done","published":1,"failed":0,"skipped":0}');
INSERT INTO "event" VALUES(13,1362899220000000,NULL,'PointersMoved','{"type":"PointersMoved","at":"2013-03-10T07:07:00Z","move":"1","environment":"production","kind":"promote","pointers":1}');
INSERT INTO "event" VALUES(14,1362899280000000,3,'RunStarted','{"type":"RunStarted","at":"2013-03-10T07:08:00Z","run":"3","environment":"production","steps":2,"tasks":{"t":2}}');
INSERT INTO "event" VALUES(15,1362899340000000,3,'StepStarted','{"type":"StepStarted","at":"2013-03-10T07:09:00Z","run":"3","step":"s1","attempt":1}');
CREATE TABLE move (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	kind TEXT NOT NULL,
	environment TEXT NOT NULL,
	at BIGINT NOT NULL,
	"by" TEXT NOT NULL,
	reason TEXT NOT NULL,
	source TEXT NOT NULL,
	pointers INTEGER NOT NULL,
	code TEXT NOT NULL,
	old_code_name TEXT NOT NULL,
	new_code_name TEXT NOT NULL,
	undoes INTEGER,
	undone_by INTEGER,
	CONSTRAINT fk_move_environment FOREIGN KEY(environment) REFERENCES environment (name)
);
INSERT INTO "move" VALUES(1,'promote','production',1362899220000000,'ann','better','fix',1,'[{"task":"t","old":null,"new":"git:fix"}]','','',NULL,NULL);
CREATE TABLE pointer (
	environment TEXT NOT NULL,
	dataset TEXT NOT NULL,
	partition TEXT NOT NULL,
	version TEXT NOT NULL,
	CONSTRAINT pk_pointer PRIMARY KEY (environment, dataset, partition),
	CONSTRAINT fk_pointer_environment FOREIGN KEY(environment) REFERENCES environment (name),
	CONSTRAINT fk_pointer_version FOREIGN KEY(version) REFERENCES version (id)
)
 WITHOUT ROWID
;
INSERT INTO "pointer" VALUES('fix','flights/delays','2013-03-09','v3');
INSERT INTO "pointer" VALUES('production','flights/delays','2013-03-09','v3');
INSERT INTO "pointer" VALUES('production','flights/delays','2013-03-10','v2');
CREATE TABLE pointer_log (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	at BIGINT NOT NULL,
	environment TEXT NOT NULL,
	dataset TEXT NOT NULL,
	partition TEXT NOT NULL,
	previous TEXT,
	version TEXT,
	kind TEXT NOT NULL,
	move INTEGER,
	run INTEGER
);
INSERT INTO "pointer_log" VALUES(1,1362898920000000,'production','flights/delays','2013-03-09',NULL,'v1','publish',NULL,1);
INSERT INTO "pointer_log" VALUES(2,1362898920000000,'production','flights/delays','2013-03-10',NULL,'v2','publish',NULL,1);
INSERT INTO "pointer_log" VALUES(3,1362898920000000,'fix','flights/delays','2013-03-09',NULL,'v3','publish',NULL,2);
INSERT INTO "pointer_log" VALUES(4,1362899220000000,'production','flights/delays','2013-03-09','v1','v3','promote',1,NULL);
CREATE TABLE released (
	environment TEXT NOT NULL,
	task TEXT NOT NULL,
	code TEXT NOT NULL,
	CONSTRAINT pk_released PRIMARY KEY (environment, task),
	CONSTRAINT fk_released_environment FOREIGN KEY(environment) REFERENCES environment (name)
)
 WITHOUT ROWID
;
INSERT INTO "released" VALUES('production','t','git:fix');
CREATE TABLE run (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	pipeline TEXT NOT NULL,
	environment TEXT NOT NULL,
	state TEXT NOT NULL,
	code TEXT NOT NULL,
	"by" TEXT NOT NULL,
	reason TEXT NOT NULL,
	"plan" TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	ended_at BIGINT,
	CONSTRAINT fk_run_environment FOREIGN KEY(environment) REFERENCES environment (name)
);
INSERT INTO "run" VALUES(1,'flights','production','failed','code1','ann','first','{}',1362898800000000,1362898980000000);
INSERT INTO "run" VALUES(2,'flights','fix','done','git:fix','bob','rehearse','{}',1362899040000000,1362899100000000);
INSERT INTO "run" VALUES(3,'flights','production','running','code1','ann','still running','{}',1362899280000000,NULL);
CREATE TABLE schema_version (
	version_num TEXT NOT NULL,
	PRIMARY KEY (version_num)
);
INSERT INTO "schema_version" VALUES('0001');
CREATE TABLE step (
	run INTEGER NOT NULL,
	position INTEGER NOT NULL,
	id TEXT NOT NULL,
	task TEXT NOT NULL,
	dataset TEXT NOT NULL,
	partition TEXT NOT NULL,
	expects TEXT,
	state TEXT NOT NULL,
	waiting_for INTEGER NOT NULL,
	attempt INTEGER NOT NULL,
	fence INTEGER NOT NULL,
	owner TEXT,
	due DOUBLE,
	version TEXT,
	failure_class TEXT,
	message TEXT,
	seconds DOUBLE,
	CONSTRAINT pk_step PRIMARY KEY (run, position),
	CONSTRAINT fk_step_run FOREIGN KEY(run) REFERENCES run (id)
)
 WITHOUT ROWID
;
INSERT INTO "step" VALUES(1,0,'s1','t','flights/delays','2013-03-09',NULL,'done',0,1,1,NULL,NULL,'v1',NULL,NULL,1.5);
INSERT INTO "step" VALUES(1,1,'s2','t','flights/delays','2013-03-10',NULL,'done',0,1,1,NULL,NULL,'v2',NULL,NULL,1.5);
INSERT INTO "step" VALUES(1,2,'s3','u','flights/delays','2013-03-11',NULL,'failed',0,1,1,NULL,NULL,NULL,'bug','it broke',NULL);
INSERT INTO "step" VALUES(2,0,'s1','t','flights/delays','2013-03-09',NULL,'done',0,1,1,NULL,NULL,'v3',NULL,NULL,1.5);
INSERT INTO "step" VALUES(3,0,'s1','t','flights/delays','2013-03-09',NULL,'running',0,1,1,'w2',1.79527132796300411222e+09,NULL,NULL,NULL,NULL);
INSERT INTO "step" VALUES(3,1,'s2','t','flights/delays','2013-03-10',NULL,'waiting',1,0,0,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE step_order (
	run INTEGER NOT NULL,
	"before" INTEGER NOT NULL,
	"after" INTEGER NOT NULL,
	CONSTRAINT pk_step_order PRIMARY KEY (run, "before", "after")
)
 WITHOUT ROWID
;
INSERT INTO "step_order" VALUES(1,0,1);
INSERT INTO "step_order" VALUES(3,0,1);
CREATE TABLE version (
	id TEXT NOT NULL,
	dataset TEXT NOT NULL,
	partition TEXT NOT NULL,
	environment TEXT NOT NULL,
	run INTEGER NOT NULL,
	step TEXT NOT NULL,
	task TEXT NOT NULL,
	code TEXT NOT NULL,
	path TEXT NOT NULL,
	bytes BIGINT NOT NULL,
	checksum TEXT NOT NULL,
	columns TEXT,
	digest TEXT NOT NULL,
	inputs TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	seconds DOUBLE NOT NULL,
	data_gone_at BIGINT,
	CONSTRAINT pk_version PRIMARY KEY (id),
	CONSTRAINT fk_version_run FOREIGN KEY(run) REFERENCES run (id)
);
INSERT INTO "version" VALUES('v1','flights/delays','2013-03-09','production',1,'s1','t','code1','p/v1',10,'c1',NULL,'["d1",2,"abc",[["carrier","string",0,"x1","AA","UA"],["minutes","int64",1,"x2",3,9]]]','[]',1362898800000000,1.5,NULL);
INSERT INTO "version" VALUES('v2','flights/delays','2013-03-10','production',1,'s2','t','code1','p/v2',10,'c1',NULL,'["d1",2,"abc",[["carrier","string",0,"x1","AA","UA"],["minutes","int64",1,"x2",3,9]]]','[["flights/delays","2013-03-09","v1"]]',1362898800000000,1.5,NULL);
INSERT INTO "version" VALUES('v3','flights/delays','2013-03-09','fix',2,'s1','t','code1','p/v3',10,'c1',NULL,'["d1",2,"abc",[["carrier","string",0,"x1","AA","UA"],["minutes","int64",1,"x2",3,9]]]','[]',1362898800000000,1.5,NULL);
CREATE INDEX ix_pointer_log_move_id ON pointer_log (move, id) WHERE move IS NOT NULL;
CREATE INDEX ix_pointer_log_environment_dataset_partition_id_at ON pointer_log (environment, dataset, partition, id, at);
CREATE INDEX ix_comparison_environment_id ON comparison (environment, id);
CREATE INDEX ix_run_environment_id ON run (environment, id);
CREATE INDEX ix_run_pipeline_id ON run (pipeline, id);
CREATE INDEX ix_run_state ON run (state);
CREATE INDEX ix_move_environment_id ON move (environment, id);
CREATE INDEX ix_step_run_state_position ON step (run, state, position);
CREATE UNIQUE INDEX ix_step_run_id ON step (run, id);
CREATE INDEX ix_step_run_due ON step (run, due) WHERE due IS NOT NULL;
CREATE INDEX ix_version_task_id ON version (task, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('run',3);
INSERT INTO "sqlite_sequence" VALUES('event',15);
INSERT INTO "sqlite_sequence" VALUES('pointer_log',4);
INSERT INTO "sqlite_sequence" VALUES('comparison',1);
INSERT INTO "sqlite_sequence" VALUES('move',1);
COMMIT;
