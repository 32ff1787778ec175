import type { Target } from './target.ts'
import { dockerArchives, tars } from './targets/archives.ts'
import { credentials, documents, errorAnswers, records } from './targets/documents.ts'
import { compressed, sources } from './targets/files.ts'
import { layoutLinks, layouts } from './targets/layouts.ts'
import { failures, nixLogs, texts } from './targets/logs.ts'
import { annotations, challenges, references } from './targets/names.ts'
import { pathInfos, programs } from './targets/sbom.ts'

/** All targets. */
export const TARGETS: readonly Target[] = [
  tars,
  dockerArchives,
  layouts,
  layoutLinks,
  sources,
  compressed,
  references,
  challenges,
  annotations,
  records,
  documents,
  errorAnswers,
  credentials,
  nixLogs,
  failures,
  texts,
  programs,
  pathInfos,
]
